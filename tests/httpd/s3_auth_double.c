/* mod_s3_auth_double: stands in for a module that signs what mod_proxy sends, as far as others can tell.
 *
 * It declares the S3 directives, and where a section names an access key each request that mod_proxy sends gets
 * "Authorization: double KEY" and "X-Signed-By: double". */

#include "httpd.h"
#include "http_config.h"
#include "apr_optional_hooks.h"
#include "apr_strings.h"
#include "mod_proxy.h"

extern module AP_MODULE_DECLARE_DATA s3_auth_double_module;

typedef struct {
    const char *access_key, *ignored;
} conf_t;

static void *create_conf(apr_pool_t *p, char *path)
{
    (void)path;
    return apr_pcalloc(p, sizeof(conf_t));
}

static void *merge_conf(apr_pool_t *p, void *base_v, void *over_v)
{
    const conf_t *base = base_v, *over = over_v;
    conf_t *conf = apr_pcalloc(p, sizeof *conf);

    conf->access_key = over->access_key ? over->access_key : base->access_key;
    return conf;
}

static int fix_up(request_rec *r)
{
    const conf_t *conf = ap_get_module_config(r->per_dir_config, &s3_auth_double_module);

    if (!conf->access_key)
        return DECLINED;
    apr_table_setn(r->headers_in, "Authorization", apr_pstrcat(r->pool, "double ", conf->access_key, NULL));
    apr_table_setn(r->headers_in, "X-Signed-By", "double");
    return OK;
}

#define S3_DIRECTIVE(name, field)                                                                   \
    AP_INIT_TAKE1(name, ap_set_string_slot, (void *)APR_OFFSETOF(conf_t, field), RSRC_CONF | ACCESS_CONF, name)

static const command_rec commands[] = {
    S3_DIRECTIVE("S3AccessKey", access_key),
    S3_DIRECTIVE("S3SecretKey", ignored),
    S3_DIRECTIVE("S3SecurityToken", ignored),
    S3_DIRECTIVE("S3Region", ignored),
    S3_DIRECTIVE("S3UseHeaders", ignored),
    { NULL }
};

static void register_hooks(apr_pool_t *p)
{
    (void)p;
    APR_OPTIONAL_HOOK(proxy, fixups, fix_up, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA s3_auth_double_module = {
    STANDARD20_MODULE_STUFF, create_conf, merge_conf, NULL, NULL, commands, register_hooks
};
