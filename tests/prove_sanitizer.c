/* mod_prove_sanitizer: a handler that reads memory of a pool after it is destroyed.
 *
 * tests/sanitize loads it to prove that valgrind would tell of such a read. */

#include "httpd.h"
#include "http_config.h"
#include "http_protocol.h"

static int handler(request_rec *r)
{
    apr_pool_t *pool;
    volatile char *text;

    if (!r->handler || strcmp(r->handler, "prove-sanitizer"))
        return DECLINED;
    apr_pool_create(&pool, r->pool);
    text = apr_pstrdup(pool, "gone");
    apr_pool_destroy(pool);
    ap_rprintf(r, "%d\n", text[0]);
    return OK;
}

static void register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA prove_sanitizer_module = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, register_hooks
};
