//! Reads httpd's headers for the module's bindings, and builds the shim. Nothing to do without the feature `httpd`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "httpd")]
    httpd::build();
}

#[cfg(feature = "httpd")]
mod httpd {
    use std::path::PathBuf;
    use std::process::Command;

    const FUNCTIONS: &str = "usc_.*|ap_hook_(handler|pre_config|post_config|child_init)|ap_register_output_filter|ap_add_output_filter|ap_remove_output_filter|ap_(log_error|log_rerror)_|\
        ap_get_request_module_loglevel|ap_get_server_module_loglevel|ap_pass_brigade|ap_meets_conditions|\
        ap_set_content_type|ap_set_content_length|ap_server_root_relative|ap_state_query|ap_mpm_query|ap_satisfies|ap_method_(register|number_of)|ap_find_command_in_modules|\
        apr_table_(get|setn|addn|unset|elts)|apr_optional_hook_add|apr_palloc|apr_pool_cleanup_(register|null)|\
        apr_brigade_create|apr_bucket_(alloc|free|eos_create|flush_create|file_create|shared_make|shared_destroy|shared_split|shared_copy|setaside_noop)|\
        ap_rwrite|apr_os_file_put|apr_sockaddr_ip_getbuf";
    const TYPES: &str = "module|command_rec|request_rec|server_rec|cmd_parms|ap_filter_t|ap_filter_type|ap_listen_rec|unixd_config_rec|apr_bucket_refcount|apr_table_entry_t";
    const VALUES: &str = "MODULE_MAGIC_.*|RSRC_CONF|ACCESS_CONF|OR_AUTHCFG|SATISFY_ANY|M_INVALID|OK|DECLINED|DONE|M_GET|PROXYREQ_.*|APR_HOOK_.*|APLOG_.*|\
        AP_FILTER_ERROR|AP_SQ_.*|AP_SQ_MAIN_STATE|AP_MPMQ_.*|APR_SUCCESS|APR_EGENERAL|ap_listeners|ap_top_module|ap_unixd_config|\
        APR_FOPEN_.*|HTTP_.*";

    pub fn build() {
        println!("cargo:rerun-if-changed=include");
        println!("cargo:rerun-if-changed=src/ffi/shim.c");
        println!("cargo:rerun-if-env-changed=APXS");
        // Statics and threads outlive a reload of the configuration, so the code must too.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        let apxs = std::env::var("APXS").unwrap_or_else(|_| "apxs".into());
        let mut flags = vec!["-Iinclude".to_owned(), format!("-I{}", query(&apxs, &["-q", "INCLUDEDIR"]))];
        flags.extend(query("apr-1-config", &["--includes", "--cppflags"]).split_whitespace().map(String::from));
        flags.extend(query("apu-1-config", &["--includes"]).split_whitespace().map(String::from));
        bind(&flags);
        let mut shim = cc::Build::new();
        for flag in &flags {
            shim.flag(flag);
        }
        shim.file("src/ffi/shim.c").warnings(true).compile("usc_shim");
    }

    fn bind(flags: &[String]) {
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("httpd.rs");
        bindgen::builder()
            .header("include/wrapper.h")
            .clang_args(flags)
            .allowlist_function(FUNCTIONS)
            .allowlist_type(TYPES)
            .allowlist_var(VALUES)
            .default_macro_constant_type(bindgen::MacroTypeVariation::Signed)
            .derive_debug(false)
            .generate_comments(false)
            .layout_tests(false)
            .generate()
            .expect("httpd's headers parse")
            .write_to_file(out)
            .expect("OUT_DIR can be written");
    }

    /// What a tool of httpd's or APR's development files answers.
    fn query(tool: &str, arguments: &[&str]) -> String {
        let output = Command::new(tool).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{tool}: {e}: install httpd's development files (apache2-dev)"));
        assert!(output.status.success(), "{tool} {arguments:?} fails");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
