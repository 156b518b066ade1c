/* mod_origin_double: a streaming origin as far as its storage sees it.
 *
 * It declares the origin's UspHandleIsm, UspEnableSubreq and IsmProxyPass and reads storage by
 * sub-requests, as the origin does. It is plain C against httpd's own headers, so that it shares
 * no code with what it tests.
 *
 * Film: a main request for /path/x.ism/virtual, where UspHandleIsm is on, reads the manifest, the
 * head of each index that it names and the head of the media that each index refers to. It answers
 * one line a sub-request: STATUS BYTES CRC32 URI CACHE-STATUS; and 502 if a manifest or an index
 * could not be read.
 *
 * Endpoint: SetHandler origin-double. Parameters, each value percent-decoded once:
 *   u=PATH        local URI of a sub-request; repeated: several, in order
 *   form=A|B      A: ap_sub_req_method_uri(PATH) and what translate_name makes of it
 *                 B: a plain look-up, then the proxy's fields set by hand
 *   range=VALUE   Range of the sub-request, set after the look-up
 *   norange=1     unsets a Range that the client sent
 *   method=M      GET, HEAD or POST
 *   h=Name:Value  sets a field of the sub-request after the look-up; an empty value unsets it
 *   n=COUNT       runs the whole list COUNT times; a body unlike the first round's is a 500
 *   keep=1        keeps the buckets, and reads them when all sub-requests are destroyed
 *   only200=1     takes no other status: 502
 *   kept_body=1   gives the sub-request an empty kept_body
 * It answers the bytes of the first round, X-Sub-Status (r->status), X-Sub-Return (of
 * ap_run_sub_req, "-" where the look-up failed), X-Sub-Ns (per sub-request, over all rounds), and
 * the fields of the first round's last sub-request as Sub-Name. */

#include "origin_double.h"

/* ---- Configuration ---- */

static void *create_conf(apr_pool_t *p, char *path)
{
    conf_t *conf = apr_pcalloc(p, sizeof *conf);

    (void)path;
    conf->handle_ism = conf->subreq = -1;
    return conf;
}

static void *merge_conf(apr_pool_t *p, void *base_v, void *over_v)
{
    const conf_t *base = base_v, *over = over_v;
    conf_t *conf = apr_palloc(p, sizeof *conf);

    conf->handle_ism = over->handle_ism >= 0 ? over->handle_ism : base->handle_ism;
    conf->subreq = over->subreq >= 0 ? over->subreq : base->subreq;
    conf->pass = over->pass ? over->pass : base->pass;
    conf->below = over->pass ? over->below : base->below;
    return conf;
}

int is_absolute(const char *url)
{
    return !strncasecmp(url, "http://", 7) || !strncasecmp(url, "https://", 8);
}

static const char *set_pass(cmd_parms *cmd, void *conf_v, const char *value)
{
    conf_t *conf = conf_v;

    if (!is_absolute(value) && value[0] != '/')
        return "IsmProxyPass takes an http or https URL, or a path";
    if (value[strlen(value) - 1] != '/')
        return "IsmProxyPass must end in a slash";
    conf->pass = value;
    conf->below = cmd->path ? cmd->path : "/";
    return NULL;
}

conf_t *conf_of(const request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &origin_double_module);
}

/* ---- Translation ---- */

/* The part of a URI below the section that IsmProxyPass stands in, without a leading slash. */
static const char *rest_of(const char *uri, const char *below)
{
    apr_size_t n = strlen(below);

    if (!strncmp(uri, below, n) && (below[n - 1] == '/' || uri[n] == '/' || !uri[n]))
        uri += n;
    while (*uri == '/')
        uri++;
    return uri;
}

/* /path/x.ism/virtual becomes /path/x.ism with the argument file=virtual behind the client's own. */
static void rewrite_film(request_rec *r)
{
    char *end = strstr(r->uri, ".ism/");
    const char *file;

    if (!end || !end[5])
        return;
    file = apr_pstrcat(r->pool, "file=", end + 5, NULL);
    r->args = r->args ? apr_pstrcat(r->pool, r->args, "&", file, NULL) : (char *)file;
    r->uri = apr_pstrmemdup(r->pool, r->uri, (apr_size_t)(end + 4 - r->uri));
    ap_set_module_config(r->request_config, &origin_double_module, (void *)file);
}

static int translate(request_rec *r)
{
    const conf_t *conf = conf_of(r);
    const char *rest;

    if (!r->main) {
        if (conf->handle_ism == 1 && !r->proxyreq)
            rewrite_film(r);
        return DECLINED;
    }
    if (!conf->pass || conf->subreq != 1 || r->proxyreq || !strcmp(r->uri, PLAIN_URI))
        return DECLINED;
    rest = rest_of(r->uri, conf->below);
    if (!is_absolute(conf->pass)) { /* A ProxyPass maps it. */
        r->uri = apr_pstrcat(r->pool, conf->pass, rest, NULL);
        return DECLINED;
    }
    r->proxyreq = PROXYREQ_REVERSE;
    r->filename = apr_pstrcat(r->pool, "proxy:", conf->pass, rest, NULL);
    r->handler = "proxy-server";
    return OK;
}

/* ---- Wiring ---- */

static int handler(request_rec *r)
{
    if (r->main || r->proxyreq)
        return DECLINED;
    if (r->handler && !strcmp(r->handler, "origin-double"))
        return endpoint(r);
    if (ap_get_module_config(r->request_config, &origin_double_module))
        return film(r);
    return DECLINED;
}

static const command_rec commands[] = {
    AP_INIT_FLAG("UspHandleIsm", ap_set_flag_slot, (void *)APR_OFFSETOF(conf_t, handle_ism),
                 RSRC_CONF | ACCESS_CONF, "on|off: play films here"),
    AP_INIT_FLAG("UspEnableSubreq", ap_set_flag_slot, (void *)APR_OFFSETOF(conf_t, subreq),
                 RSRC_CONF | ACCESS_CONF, "on|off: read storage by sub-requests"),
    AP_INIT_TAKE1("IsmProxyPass", set_pass, NULL, RSRC_CONF | ACCESS_CONF,
                  "URL or path of the storage, with a slash at its end"),
    { NULL }
};

static void register_hooks(apr_pool_t *p)
{
    static const char *const before[] = { "mod_proxy.c", NULL };

    (void)p;
    ap_hook_translate_name(translate, NULL, before, APR_HOOK_REALLY_FIRST);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_FIRST);
    register_capture();
}

module AP_MODULE_DECLARE_DATA origin_double_module = {
    STANDARD20_MODULE_STUFF, create_conf, merge_conf, NULL, NULL, commands, register_hooks
};
