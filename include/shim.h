/* The functions of src/ffi/shim.c: what httpd and APR offer as macros only. */
#ifndef USC_SHIM_H
#define USC_SHIM_H

#include "httpd.h"
#include "http_config.h"
#include "apr_buckets.h"

/* Makes `bucket`, which was allocated from `list`, a lone bucket of that list. */
void usc_bucket_init(apr_bucket *bucket, apr_bucket_alloc_t *list);

/* Appends `bucket` to `brigade`. */
void usc_brigade_append(apr_bucket_brigade *brigade, apr_bucket *bucket);

/* Whether EnableSendfile is on for the request. */
int usc_sendfile_enabled(const request_rec *r);

/* The module's entry of a configuration vector. */
void *usc_module_config(const ap_conf_vector_t *vector, const module *m);

/* Sets the module's entry of a configuration vector. */
void usc_set_module_config(ap_conf_vector_t *vector, const module *m, void *value);

/* Whether some filter between the request's own filters and the network looks at the bytes (TLS, HTTP/2). */
int usc_connection_filtered(const request_rec *r);

#endif
