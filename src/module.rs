//! The wiring: the record by which httpd knows the module, its directives, its hooks.

use crate::config::{DIRECTIVES, Host, Match, Section, Set};
use crate::ffi::command::Commands;
use crate::ffi::config::{Configuration, Module, Setting};
use crate::ffi::hook::{self, ModuleNames};
use crate::ffi::sys;
use crate::hooks::handler::Handler;
use crate::hooks::life::{Begin, Prepare, Stop};

/// What httpd reads when it loads the module.
#[allow(non_upper_case_globals, reason = "the name that LoadModule gives")]
#[unsafe(no_mangle)]
pub static usp_storage_cache_module: Module =
    Module::new::<Config, COMMANDS>(c"mod_usp_storage_cache.c", &DIRECTIVE_TABLE, register_hooks);

/// The directives, and the end mark.
const COMMANDS: usize = DIRECTIVES.len() + 1;

static DIRECTIVE_TABLE: Commands<COMMANDS> = Commands::new::<Config>(&{
    let mut names = [(c"", c""); DIRECTIVES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = (DIRECTIVES[at].name, DIRECTIVES[at].usage);
        at += 1;
    }
    names
});

/// Who would answer otherwise: mod_cache's own handler stands as early as ours.
static SUCCESSORS: ModuleNames<4> = ModuleNames::new(&[c"mod_proxy.c", c"mod_proxy_balancer.c", c"mod_cache.c"]);

extern "C" fn register_hooks(_: *mut sys::apr_pool_t) {
    hook::post_config::<Prepare>();
    hook::child_init::<Begin>();
    hook::child_stopping::<Stop>();
    hook::content_handler::<Handler, _>(&SUCCESSORS);
}

/// The configuration of this module.
pub(crate) struct Config;

impl Configuration for Config {
    type Section<'c> = Section<'c>;
    type Host<'c> = Host<'c>;

    fn module() -> &'static Module {
        &usp_storage_cache_module
    }

    fn new_section<'c>() -> Self::Section<'c> {
        Section::default()
    }

    fn merge_sections<'c>(outer: &Self::Section<'c>, inner: &Self::Section<'c>) -> Self::Section<'c> {
        Section::merge(outer, inner)
    }

    fn new_host<'c>() -> Self::Host<'c> {
        Host::default()
    }

    fn merge_hosts<'c>(outer: &Self::Host<'c>, inner: &Self::Host<'c>) -> Self::Host<'c> {
        Host::merge(outer, inner)
    }

    fn set(directive: usize, setting: Setting<'_, '_, Self>) -> Result<(), String> {
        let want = |invalid: crate::config::Invalid| format!("it takes {invalid}");
        match DIRECTIVES[directive].set {
            Set::Section(set) => set(setting.section, setting.value).map_err(want)?,
            Set::Match => setting.section.set_match(setting.pool.keep(Match::new(setting.value).map_err(want)?)),
            Set::Host(set) if setting.in_main_server => set(setting.host, setting.value).map_err(want)?,
            Set::Host(_) => {
                return Err("it holds for the whole server: write it outside of <VirtualHost> and all sections".into());
            }
        }
        setting.host.used |= setting.section.enabled();
        Ok(())
    }
}
