/* What httpd and APR offer as macros only, as functions. */
#define CORE_PRIVATE
#include "httpd.h"
#include "http_config.h"
#include "http_core.h"
#include "util_filter.h"
#include "apr_buckets.h"
#include "shim.h"

void usc_bucket_init(apr_bucket *bucket, apr_bucket_alloc_t *list)
{
    APR_BUCKET_INIT(bucket);
    bucket->free = apr_bucket_free;
    bucket->list = list;
}

void usc_brigade_append(apr_bucket_brigade *brigade, apr_bucket *bucket)
{
    APR_BRIGADE_INSERT_TAIL(brigade, bucket);
}

int usc_sendfile_enabled(const request_rec *r)
{
    const core_dir_config *conf = ap_get_core_module_config(r->per_dir_config);
    return conf->enable_sendfile == ENABLE_SENDFILE_ON;
}

void *usc_module_config(const ap_conf_vector_t *vector, const module *m)
{
    return ap_get_module_config(vector, m);
}

void usc_set_module_config(ap_conf_vector_t *vector, const module *m, void *value)
{
    ap_set_module_config(vector, m, value);
}

int usc_connection_filtered(const request_rec *r)
{
    const ap_filter_t *filter = r->connection->output_filters;
    if (r->connection->master) {
        return 1;
    }
    for (; filter; filter = filter->next) {
        if (filter->frec->ftype < AP_FTYPE_NETWORK) {
            return 1;
        }
    }
    return 0;
}
