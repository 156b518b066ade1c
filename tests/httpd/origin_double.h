/* What the parts of mod_origin_double share: origin_double.c says what it is. */

#ifndef ORIGIN_DOUBLE_H
#define ORIGIN_DOUBLE_H

#include "httpd.h"
#include "http_config.h"
#include "http_log.h"
#include "http_protocol.h"
#include "http_request.h"
#include "apr_strings.h"

#include <string.h>

extern module AP_MODULE_DECLARE_DATA origin_double_module;
APLOG_USE_MODULE(origin_double);

/* A local URI that nothing maps: what form B looks up before it sets the fields by hand. */
#define PLAIN_URI "/double-plain"

#pragma GCC visibility push(hidden) /* httpd loads modules into one name space. */

/* ---- origin_double.c: configuration ---- */

typedef struct {
    int handle_ism;    /* -1: not set */
    int subreq;        /* -1: not set */
    const char *pass;  /* IsmProxyPass */
    const char *below; /* The section that IsmProxyPass stands in. */
} conf_t;

conf_t *conf_of(const request_rec *r);
int is_absolute(const char *url);

/* ---- origin_double_read.c: sub-requests and what they deliver ---- */

typedef struct {
    request_rec *r;           /* The main request. */
    char *bytes;              /* Of the first round. */
    apr_size_t len, space;
    int first;                /* The first round stores, the others compare. */
    apr_size_t at;            /* How far a later round has compared. */
    int differs;
    apr_bucket_brigade *kept; /* Takes the buckets unread, if set. */
    apr_status_t failure;     /* Of a bucket that could not be read. */
} capture_t;

typedef struct {
    apr_array_header_t *uris;   /* const char * */
    apr_array_header_t *fields; /* const char *, Name:Value */
    const char *method, *range;
    int form_b, rounds, keep, only200, kept_body, norange;
} ask_t;

typedef struct {
    int status;          /* rr->status */
    int ran;             /* 0: the look-up failed */
    int returned;        /* Of ap_run_sub_req. */
    apr_table_t *fields; /* Of the answer; filled if set. */
} result_t;

void register_capture(void);
capture_t *new_capture(request_rec *r);
/* Reads a brigade to its end. */
apr_status_t drain(capture_t *c, apr_bucket_brigade *bb);
ask_t *new_ask(apr_pool_t *p);
void run_one(request_rec *r, const ask_t *ask, const char *uri, capture_t *c, result_t *result);
/* What a caller makes of it: a handler's error, else the status. */
int status_of(const result_t *result);

/* Sends an answer of ours: a Range that the client meant for the sub-requests does not slice it. */
int answer(request_rec *r, int status, const char *type, const char *bytes, apr_size_t len);
int answer_text(request_rec *r, int status, const char *text);

/* ---- The two kinds of main requests ---- */

int endpoint(request_rec *r);
int film(request_rec *r);

#pragma GCC visibility pop

#endif
