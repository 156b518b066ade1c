//! The wiring: the record by which httpd knows the module, its directives, its hooks.

use std::ffi::CStr;

use crate::config::{DIRECTIVES, Host, Limit, Match, OBSERVED, Section, Set, Url, named_urls, socket_url};
use crate::fetch::roots::Roots;
use crate::ffi::command::{Commands, Directive, Takes};
use crate::ffi::config::{Configuration, Module, Setting};
use crate::ffi::hook::{self, ModuleNames};
use crate::ffi::{guard, server, sys};
use crate::hooks::handler::Handler;
use crate::hooks::invalidate::Invalidate;
use crate::hooks::life::{Begin, Prepare, Stop};
use crate::hooks::pass::Sign;
use crate::hooks::purge::Methods;
use crate::hooks::status::{Section as StatusLines, Status};
use crate::hooks::tally::Note;
use crate::store::now_ms;

/// What httpd reads when it loads the module.
#[allow(non_upper_case_globals, reason = "the name that LoadModule gives")]
#[unsafe(no_mangle)]
pub static usp_storage_cache_module: Module =
    Module::new::<Config, COMMANDS>(c"mod_usp_storage_cache.c", &DIRECTIVE_TABLE, register_hooks);

/// Our directives, the observed ones, and the end mark.
const COMMANDS: usize = DIRECTIVES.len() + OBSERVED.len() + 1;

static DIRECTIVE_TABLE: Commands<COMMANDS> = Commands::new::<Config>(&{
    let mut table = [Directive { name: c"", usage: c"", takes: Takes::Word }; COMMANDS - 1];
    let mut at = 0;
    while at < DIRECTIVES.len() {
        table[at] = Directive { name: DIRECTIVES[at].name, usage: DIRECTIVES[at].usage, takes: Takes::Word };
        at += 1;
    }
    while at < COMMANDS - 1 {
        // A whole line is taken however many words it has: what is wrong with it its own module says.
        let name = OBSERVED[at - DIRECTIVES.len()];
        table[at] = Directive { name, usage: c"a directive of another module", takes: Takes::Line };
        at += 1;
    }
    table
});

/// Who would answer otherwise: mod_cache's own handler stands as early as ours.
static SUCCESSORS: ModuleNames<4> = ModuleNames::new(&[c"mod_proxy.c", c"mod_proxy_balancer.c", c"mod_cache.c"]);

extern "C" fn register_hooks(_: *mut sys::apr_pool_t) {
    guard::catch((), || {
        hook::pre_config::<Methods>();
        hook::post_config::<Prepare>();
        hook::child_init::<Begin>();
        hook::child_stopping::<Stop>();
        hook::content_handler::<Handler, _>(&SUCCESSORS);
        hook::content_handler::<Status, _>(&SUCCESSORS);
        hook::status_section::<StatusLines>();
        hook::answer_look::<Invalidate>();
        hook::proxy_fixups::<Sign>();
    });
}

/// The configuration of this module.
pub(crate) struct Config;

impl Configuration for Config {
    type Section<'c> = Section<'c>;
    type Host<'c> = Host<'c>;
    type Note<'r> = Note<'r>;

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
        Host::new(now_ms())
    }

    fn merge_hosts<'c>(outer: &Self::Host<'c>, inner: &Self::Host<'c>) -> Self::Host<'c> {
        Host::merge(outer, inner)
    }

    fn is_secret(directive: usize) -> bool {
        DIRECTIVES.get(directive).is_some_and(|d| d.name == c"S3SecretKey" || d.name == c"S3SecurityToken")
    }

    fn set(directive: usize, setting: Setting<'_, '_, Self>) -> Result<(), String> {
        let Some(ours) = DIRECTIVES.get(directive) else { return observe(directive - DIRECTIVES.len(), setting) };
        let want = |invalid: crate::config::Invalid| format!("it takes {invalid}");
        match ours.set {
            Set::Section(set) => set(setting.section, setting.value).map_err(want)?,
            Set::Match => setting.section.set_match(setting.pool.keep(Match::new(setting.value).map_err(want)?)),
            Set::Roots => {
                let want = |why| format!("it takes a file of PEM certificates, readable at start: {why}");
                setting.section.set_roots(setting.pool.keep(Roots::read(setting.value).map_err(want)?));
            }
            Set::Host(set) if setting.in_main_server => set(setting.host, setting.value).map_err(want)?,
            Set::Host(_) => {
                return Err("it holds for the whole server: write it outside of <VirtualHost> and all sections".into());
            }
        }
        setting.host.used |= setting.section.enabled() || setting.section.purges();
        Ok(())
    }
}

/// Notes what a directive of another module says; that module itself says what is wrong with it.
fn observe(which: usize, setting: Setting<'_, '_, Config>) -> Result<(), String> {
    let name = OBSERVED[which];
    if !server::is_declared_elsewhere(name, Config::module()) {
        return Err("no module is loaded that it belongs to".into());
    }
    if name == c"ProxyPreserveHost" {
        setting.section.observe_preserve_host(setting.value.trim_matches(['"', '\'', ' ', '\t']));
        return Ok(());
    }
    if name == c"Require" || name == c"AuthMerging" {
        observe_access(name, setting);
        return Ok(());
    }
    let Host { sockets, named, .. } = setting.host;
    if let Some(url) = socket_url(setting.value) {
        *sockets = Some(setting.pool.keep(Url { url, next: *sockets }));
    }
    for url in named_urls(setting.value) {
        *named = Some(setting.pool.keep(Url { url, next: *named }));
    }
    Ok(())
}

/// Notes what the access rules say of who may purge.
fn observe_access(name: &CStr, Setting { value, section, methods, .. }: Setting<'_, '_, Config>) {
    if name == c"AuthMerging" {
        section.observe_merging(!value.trim_matches(['"', '\'', ' ', '\t']).eq_ignore_ascii_case("off"));
    } else if methods.name(c"PURGE") {
        section.observe_require(value, Limit::Named);
    } else {
        section.observe_require(value, if methods.hold(c"PURGE") { Limit::In } else { Limit::Out });
    }
}
