/* mod_origin_double: the endpoint that runs the sub-requests its query asks for. */

#include "origin_double.h"

#include "apr_lib.h"

#include <stdlib.h>
#include <time.h>

#define ROUNDS_MAX 1000000

static int hex_value(int c)
{
    return apr_isdigit(c) ? c - '0' : apr_tolower(c) - 'a' + 10;
}

static char *percent_decoded(apr_pool_t *p, const char *in)
{
    char *out = apr_palloc(p, strlen(in) + 1), *to = out;

    while (*in) {
        if (in[0] == '%' && apr_isxdigit(in[1]) && apr_isxdigit(in[2])) {
            *to++ = (char)(hex_value(in[1]) * 16 + hex_value(in[2]));
            in += 3;
        }
        else {
            *to++ = *in++;
        }
    }
    *to = '\0';
    return out;
}

/* Takes one parameter; false if it is none that we know. */
static int take_parameter(ask_t *ask, const char *name, const char *value)
{
    if (!strcmp(name, "u"))
        APR_ARRAY_PUSH(ask->uris, const char *) = value;
    else if (!strcmp(name, "h") && strchr(value, ':'))
        APR_ARRAY_PUSH(ask->fields, const char *) = value;
    else if (!strcmp(name, "form") && (!strcmp(value, "A") || !strcmp(value, "B")))
        ask->form_b = value[0] == 'B';
    else if (!strcmp(name, "range"))
        ask->range = value;
    else if (!strcmp(name, "method"))
        ask->method = value;
    else if (!strcmp(name, "n"))
        ask->rounds = atoi(value);
    else if (!strcmp(name, "keep"))
        ask->keep = atoi(value);
    else if (!strcmp(name, "only200"))
        ask->only200 = atoi(value);
    else if (!strcmp(name, "kept_body"))
        ask->kept_body = atoi(value);
    else if (!strcmp(name, "norange"))
        ask->norange = atoi(value);
    else
        return 0;
    return 1;
}

/* Reads the query; NULL, or what is wrong with it. */
static const char *read_ask(request_rec *r, ask_t *ask)
{
    char *last, *token = apr_strtok(apr_pstrdup(r->pool, r->args ? r->args : ""), "&", &last);

    for (; token; token = apr_strtok(NULL, "&", &last)) {
        char *value = strchr(token, '=');

        if (value)
            *value++ = '\0';
        if (!value || !take_parameter(ask, token, percent_decoded(r->pool, value)))
            return apr_pstrcat(r->pool, "parameter not known: ", token, NULL);
    }
    if (!ask->uris->nelts)
        return "u=PATH is missing";
    if (ask->rounds < 1 || ask->rounds > ROUNDS_MAX)
        return "n is out of range";
    if (ask->form_b && !conf_of(r)->pass)
        return "form=B needs an IsmProxyPass here";
    return NULL;
}

/* Adds a value to a field of the answer: "206,206,200". */
static void note(request_rec *r, const char *name, const char *value)
{
    const char *so_far = apr_table_get(r->err_headers_out, name);

    apr_table_setn(r->err_headers_out, name, so_far ? apr_pstrcat(r->pool, so_far, ",", value, NULL) : value);
}

static void note_result(request_rec *r, const result_t *result)
{
    note(r, "X-Sub-Status", apr_itoa(r->pool, result->status));
    note(r, "X-Sub-Return", result->ran ? apr_itoa(r->pool, result->returned) : "-");
}

/* Runs the list once. Returns the number of answers that a consumer of 200 does not take. */
static int run_round(request_rec *r, const ask_t *ask, capture_t *c, apr_table_t **fields)
{
    int i, refused = 0;

    for (i = 0; i < ask->uris->nelts; i++) {
        result_t result = { 0 };

        if (c->first)
            *fields = result.fields = apr_table_make(r->pool, 16);
        run_one(r, ask, APR_ARRAY_IDX(ask->uris, i, const char *), c, &result);
        refused += status_of(&result) != HTTP_OK;
        if (c->first)
            note_result(r, &result);
    }
    return refused;
}

/* A later round that has ended short is unlike the first. */
static void end_round(capture_t *c)
{
    if (!c->first && c->at != c->len)
        c->differs = 1;
    c->first = 0;
    c->at = 0;
}

static int run_rounds(request_rec *r, const ask_t *ask, capture_t *c, apr_table_t **fields)
{
    apr_array_header_t *kept = apr_array_make(r->pool, 1, sizeof(apr_bucket_brigade *));
    int i, refused = 0;

    for (i = 0; i < ask->rounds; i++) {
        if (ask->keep)
            c->kept = apr_brigade_create(r->pool, r->connection->bucket_alloc);
        c->first = i == 0;
        refused += run_round(r, ask, c, fields);
        if (ask->keep)
            APR_ARRAY_PUSH(kept, apr_bucket_brigade *) = c->kept;
        else
            end_round(c);
    }
    c->first = 1;
    for (i = 0; i < kept->nelts && !c->failure; i++) {
        drain(c, APR_ARRAY_IDX(kept, i, apr_bucket_brigade *));
        end_round(c);
    }
    return refused;
}

static int add_sub_field(void *r_v, const char *name, const char *value)
{
    request_rec *r = r_v;

    apr_table_addn(r->err_headers_out, apr_pstrcat(r->pool, "Sub-", name, NULL), value);
    return 1;
}

static apr_uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (apr_uint64_t)t.tv_sec * 1000000000u + (apr_uint64_t)t.tv_nsec;
}

int endpoint(request_rec *r)
{
    ask_t *ask = new_ask(r->pool);
    capture_t *c = new_capture(r);
    apr_table_t *fields = NULL;
    const char *wrong = read_ask(r, ask);
    apr_uint64_t start = now_ns(), ns;
    int refused;

    if (wrong)
        return answer_text(r, HTTP_BAD_REQUEST, apr_pstrcat(r->pool, wrong, "\n", NULL));
    refused = run_rounds(r, ask, c, &fields);
    ns = (now_ns() - start) / ((apr_uint64_t)ask->rounds * (apr_uint64_t)ask->uris->nelts);
    apr_table_setn(r->err_headers_out, "X-Sub-Ns", apr_psprintf(r->pool, "%" APR_UINT64_T_FMT, ns));
    apr_table_do(add_sub_field, r, fields, NULL);
    if (c->failure)
        return answer_text(r, HTTP_INTERNAL_SERVER_ERROR, "a bucket could not be read\n");
    if (c->differs)
        return answer_text(r, HTTP_INTERNAL_SERVER_ERROR, "a later round differs from the first\n");
    if (ask->only200 && refused)
        return answer_text(r, HTTP_BAD_GATEWAY, "a status other than 200\n");
    return answer(r, HTTP_OK, "application/octet-stream", c->bytes, c->len);
}
