//! A real httpd for one test: its own directory, ports, configuration and logs.
//!
//! [`Conf`] is the configuration that the test writes, with a common head put before it.
//! [`Httpd`] runs it and ends it, whatever becomes of the test. In the text `@PORT@` and
//! `@PORT2@` are free ports (the first one is listened on), and `@DIR@` is the server's directory.
//!
//! # Invariants
//!
//! - httpd leads a process group of its own: what it sends to its group reaches no test, and
//!   killing the group leaves no child behind.
//! - The paths given to httpd are absolute, since its daemon changes its directory.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::client::{self, Connection, Request, Response};
use crate::wait::until;

/// How often a start is tried when somebody else takes the port first.
const STARTS: u32 = 5;
/// How long a server may take to start or to end, in seconds.
const PATIENCE_SECS: u64 = 20;
const RESUMED: &str = "resuming normal operations";
/// What httpd logs of a child that ended by a signal which is not of its own making.
const CRASHED: &str = "exit signal";

/// The multi-processing module that httpd runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mpm {
    Prefork,
    Worker,
    Event,
}

impl Mpm {
    pub(crate) const ALL: [Self; 3] = [Self::Prefork, Self::Worker, Self::Event];

    fn name(self) -> &'static str {
        match self {
            Self::Prefork => "prefork",
            Self::Worker => "worker",
            Self::Event => "event",
        }
    }

    /// The module's size for `children` processes of `threads` each.
    fn lines(self, children: u32, threads: u32) -> String {
        let all = children * threads;
        match self {
            Self::Prefork => format!(
                "StartServers {all}\nMinSpareServers 1\nMaxSpareServers {all}\n\
                 ServerLimit {all}\nMaxRequestWorkers {all}\n"
            ),
            Self::Worker | Self::Event => format!(
                "StartServers {children}\nServerLimit {children}\nThreadLimit {threads}\n\
                 ThreadsPerChild {threads}\nMaxRequestWorkers {all}\n\
                 MinSpareThreads 1\nMaxSpareThreads {all}\n{}",
                // A child of event that finds no thread idle stops listening, and may stay so though all of them are by now:
                // whoever still listens has to take all connections.
                if self == Self::Event { "AsyncRequestWorkerFactor 64\n" } else { "" }
            ),
        }
    }
}

/// What a test's httpd is to be. One child of 64 threads under event, unless told otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Conf {
    text: String,
    mpm: Mpm,
    children: u32,
    threads: u32,
    modules: Vec<&'static str>,
    environment: Vec<(&'static str, String)>,
    with_ours: bool,
    ours_first: bool,
    with_signer: bool,
}

impl Conf {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            mpm: Mpm::Event,
            children: 1,
            threads: 64,
            modules: vec!["authz_core", "headers", "mime", "proxy", "proxy_http"],
            environment: Vec::new(),
            with_ours: true,
            ours_first: false,
            with_signer: false,
        }
    }

    pub(crate) fn mpm(self, mpm: Mpm) -> Self {
        Self { mpm, ..self }
    }

    pub(crate) fn size(self, children: u32, threads: u32) -> Self {
        Self { children, threads, ..self }
    }

    /// Loads another of httpd's modules.
    pub(crate) fn load(mut self, module: &'static str) -> Self {
        self.modules.push(module);
        self
    }

    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Leaves the module under test out; directives for it belong in `<IfModule>`.
    pub(crate) fn without_ours(self) -> Self {
        Self { with_ours: false, ..self }
    }

    /// Loads the module under test before all others.
    pub(crate) fn ours_first(self) -> Self {
        Self { ours_first: true, ..self }
    }

    /// Loads another module that signs what mod_proxy sends.
    pub(crate) fn with_signer(self) -> Self {
        Self { with_signer: true, ..self }
    }

    /// Loads none of httpd's modules but those that it cannot do without.
    pub(crate) fn bare(self) -> Self {
        Self { modules: vec!["authz_core", "mime"], ..self }
    }

    /// The whole configuration file.
    fn file(&self, dir: &Path, ports: [u16; 2]) -> String {
        let dir = dir.display().to_string();
        let head = format!(
            "ServerRoot \"{dir}\"\nPidFile logs/httpd.pid\nErrorLog logs/error.log\n\
             DefaultRuntimeDir logs\nTypesConfig /dev/null\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
             ServerName 127.0.0.1\nListen 127.0.0.1:@PORT@\n"
        );
        let whole = [head, self.modules(), self.owner(), self.common(), self.text.clone()].concat();
        let [first, second] = ports.map(|port| port.to_string());
        whole.replace("@PORT@", &first).replace("@PORT2@", &second).replace("@DIR@", &dir)
    }

    fn modules(&self) -> String {
        let installed = Installation::find();
        let ours = match self.with_ours {
            true => installed.load_ours(),
            false => String::new(),
        };
        let theirs: String = self.modules.iter().map(|name| installed.load_line(name)).collect();
        let mpm = installed.load_line(&format!("mpm_{}", self.mpm.name()));
        let mut rest = [mpm, theirs, installed.load_double("origin_double")].concat();
        if self.with_signer {
            rest += &installed.load_double("s3_auth_double");
        }
        let loads = if self.ours_first { [ours, rest] } else { [rest, ours] };
        loads.concat() + &self.mpm.lines(self.children, self.threads)
    }

    fn owner(&self) -> String {
        match rustix::process::geteuid().is_root() {
            true => "User www-data\nGroup www-data\n".into(),
            false => String::new(),
        }
    }

    fn common(&self) -> String {
        let log = "LogLevel warn\nLogFormat \"%>s %r|%{USP_STORAGE_CACHE}e\" usc\n\
                   CustomLog logs/access.log usc\n";
        match self.with_ours {
            true => format!(
                "{log}LogLevel usp_storage_cache:trace2\nUspStorageCacheRoot \"@DIR@/store\"\n\
                 UspStorageCacheMinFree 1M\n"
            ),
            false => log.into(),
        }
    }
}

/// Where the machine keeps httpd, and where the modules that are tested were built.
struct Installation {
    program: PathBuf,
    modules: PathBuf,
    built_in: String,
    built: PathBuf,
}

impl Installation {
    fn find() -> &'static Self {
        static FOUND: OnceLock<Installation> = OnceLock::new();
        FOUND.get_or_init(|| {
            let program = Path::new(&apxs("SBINDIR")).join(apxs("PROGNAME"));
            let listed = Command::new(&program).arg("-l").output().expect("httpd -l runs");
            let test = std::env::current_exe().expect("a test knows its own path");
            Self {
                modules: apxs("LIBEXECDIR").into(),
                built_in: String::from_utf8_lossy(&listed.stdout).into_owned(),
                built: test.ancestors().nth(2).expect("a test lies in <profile>/deps").into(),
                program,
            }
        })
    }

    /// The line that loads one of httpd's own modules, if it is not compiled in.
    fn load_line(&self, name: &str) -> String {
        match self.built_in.contains(&format!("mod_{name}.c")) {
            true => String::new(),
            false => load(&format!("{name}_module"), &self.modules.join(format!("mod_{name}.so"))),
        }
    }

    fn load_ours(&self) -> String {
        let built = self.built.join("libmod_usp_storage_cache.so");
        load("usp_storage_cache_module", &from_environment("USC_MODULE", built))
    }

    fn load_double(&self, name: &str) -> String {
        let doubles = from_environment("USC_DOUBLES", self.built.with_file_name("double"));
        load(&format!("{name}_module"), &doubles.join(format!("mod_{name}.so")))
    }
}

fn from_environment(variable: &str, otherwise: PathBuf) -> PathBuf {
    let path = std::env::var_os(variable).map_or(otherwise, PathBuf::from);
    assert!(path.exists(), "{} is missing: run tests/setup and build first", path.display());
    path
}

fn load(name: &str, path: &Path) -> String {
    format!("LoadModule {name} \"{}\"\n", path.display())
}

fn apxs(variable: &str) -> String {
    let asked = Command::new("apxs").args(["-q", variable]).output();
    let asked = asked.expect("apxs is installed: run tests/setup first");
    String::from_utf8_lossy(&asked.stdout).trim().to_owned()
}

/// A running httpd, or one that is stopped and can be started again on the same directory.
pub(crate) struct Httpd {
    pub(crate) port: u16,
    pub(crate) port2: u16,
    dir: TempDir,
    conf: Conf,
    process: Option<Child>,
    crashed_at_stops: usize,
}

impl Httpd {
    pub(crate) fn start(conf: Conf) -> Self {
        let mut httpd = Self { port: 0, port2: 0, dir: directory(), conf, process: None, crashed_at_stops: 0 };
        httpd.start_again();
        httpd
    }

    /// Starts it anew after [`Httpd::stop`], on other ports.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "httpd runs already");
        for _ in 0..STARTS {
            if self.try_start() {
                return;
            }
        }
        panic!("httpd does not start:\n{}", self.error_log());
    }

    /// Starts it anew with another configuration.
    pub(crate) fn start_again_as(&mut self, text: impl Into<String>) {
        self.conf.text = text.into();
        self.start_again();
    }

    fn try_start(&mut self) -> bool {
        [self.port, self.port2] = free_ports();
        let conf = write_conf(&self.conf, self.dir.path(), [self.port, self.port2]);
        let taken = self.count_in_log("could not bind to address");
        let pid_file = self.path("logs/httpd.pid");
        let _ = fs::remove_file(&pid_file);
        let mut process = spawn(&self.conf, self.dir.path(), &conf);
        let pid = process.id().to_string();
        let ended = until("httpd to start", PATIENCE_SECS, || {
            let up = fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == pid)
                && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
            let exit = process.try_wait().expect("httpd can be waited for");
            (up || exit.is_some()).then_some(exit)
        });
        match ended {
            None => self.process = Some(process),
            Some(exit) if self.count_in_log("could not bind to address") == taken => {
                panic!("httpd does not start: {exit}\n{}", self.error_log())
            }
            Some(_) => return false,
        }
        true
    }

    /// Stops it by SIGTERM and says how long that took.
    pub(crate) fn stop(&mut self) -> Duration {
        let crashed_before = self.count_in_log(CRASHED) + self.unburied();
        let began = Instant::now();
        let mut process = self.process.take().expect("httpd runs");
        let group = pid_of(&process);
        let _ = rustix::process::kill_process(group, Signal::TERM);
        let deadline = began + Duration::from_secs(PATIENCE_SECS);
        while matches!(process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = began.elapsed();
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let _ = process.wait();
        self.crashed_at_stops += self.count_in_log(CRASHED).saturating_sub(crashed_before);
        took
    }

    /// How many children have crashed.
    ///
    /// Not those that did so while they were being stopped: in event of httpd 2.4.71 itself the main
    /// thread and the workers race then, and one stop in a hundred ends so without the module as well.
    pub(crate) fn crashes(&self) -> usize {
        self.count_in_log(CRASHED) - self.crashed_at_stops
    }

    /// How many children have crashed, while they were being stopped included.
    pub(crate) fn crashes_and_stops(&self) -> usize {
        self.count_in_log(CRASHED)
    }

    /// Children that have died, which httpd has not noticed yet.
    fn unburied(&self) -> usize {
        let is_dead = |pid: &u32| stat_of(*pid).is_some_and(|(state, _)| state == "Z");
        self.children().iter().filter(|pid| is_dead(pid)).count()
    }

    /// Asks for a graceful restart and waits until the new generation works.
    pub(crate) fn graceful(&self) {
        let before = self.count_in_log(RESUMED);
        let process = self.process.as_ref().expect("httpd runs");
        rustix::process::kill_process(pid_of(process), Signal::USR1).expect("httpd runs");
        until("a graceful restart", PATIENCE_SECS, || (self.count_in_log(RESUMED) > before).then_some(()));
    }

    /// The same, and no child of before takes a request from then on: under `mpm` prefork they may until they have ended.
    pub(crate) fn graceful_for_all(&self, mpm: Mpm) {
        let before = self.children();
        self.graceful();
        let are_gone = || !self.children().iter().any(|pid| before.contains(pid));
        if mpm == Mpm::Prefork {
            until("the old generation to end", PATIENCE_SECS, || are_gone().then_some(()));
        }
    }

    pub(crate) fn send(&self, request: Request) -> Response {
        client::fetch(self.port, request).expect("httpd answers")
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.send(Request::get(target))
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.port).expect("httpd takes a connection")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The files of all entries, once no fill is under way.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        self.settle();
        let mut found = Vec::new();
        files_below(&self.path("store/v1/entries"), &mut found);
        found
    }

    /// The disk space of all that is in the store, in bytes.
    pub(crate) fn disk_use(&self) -> u64 {
        let mut found = Vec::new();
        files_below(&self.path("store"), &mut found);
        // A file may go while the others are counted.
        found.iter().filter_map(|file| file.symlink_metadata().ok()).map(|had| had.blocks() * 512).sum()
    }

    pub(crate) fn error_log(&self) -> String {
        let read = |name| fs::read(self.path(name)).unwrap_or_default();
        let both = [read("logs/stderr.log"), read("logs/error.log")].concat();
        String::from_utf8_lossy(&both).into_owned()
    }

    pub(crate) fn count_in_log(&self, words: &str) -> usize {
        self.error_log().lines().filter(|line| line.contains(words)).count()
    }

    /// The processes that logged lines with these words, in the order of the lines.
    pub(crate) fn pids_in_log(&self, words: &str) -> Vec<u32> {
        let log = self.error_log();
        let pid = |line: &str| line.split_once("[pid ")?.1.split([':', ']']).next()?.parse().ok();
        log.lines().filter(|line| line.contains(words)).filter_map(pid).collect()
    }

    /// The access log's lines, once there are at least `count`: they are written after the answer.
    pub(crate) fn access_log(&self, count: usize) -> Vec<String> {
        until("the access log", 10, || {
            let text = fs::read_to_string(self.path("logs/access.log")).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("httpd runs").id()
    }

    /// The processes that httpd has forked, in order.
    pub(crate) fn children(&self) -> Vec<u32> {
        let parent = self.pid();
        let all = fs::read_dir("/proc").expect("/proc can be read").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut children: Vec<u32> = pids.filter(|pid| stat_of(*pid).is_some_and(|(_, had)| had == parent)).collect();
        children.sort_unstable();
        children
    }

    /// Waits until no child fills anything: an answer goes out before its object is published.
    pub(crate) fn settle(&self) {
        let is_filling = || self.process.is_some() && self.children().into_iter().any(is_filling);
        until("all fills to end", 30, || (!is_filling()).then_some(()));
    }

    /// The one child that serves, once it is there.
    pub(crate) fn child(&self) -> u32 {
        until("the only child", 10, || match self.children().as_slice() {
            [one] => Some(*one),
            _ => None,
        })
    }
}

impl Drop for Httpd {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.path("logs/error.log").display(), self.error_log());
        }
    }
}

/// Whether a child has a thread that fills.
fn is_filling(child: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{child}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.into_iter().any(|name| ["usc-fill", "usc-part", "usc-background"].contains(&name.trim()))
}

/// What `httpd -t` says of a configuration: whether it is right, and its words.
pub(crate) fn check(conf: &Conf) -> (bool, String) {
    let dir = directory();
    let file = write_conf(conf, dir.path(), free_ports());
    let said = httpd(dir.path(), &file).arg("-t").output().expect("httpd -t runs");
    (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned())
}

fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("usc-").tempdir().expect("a temporary directory");
    // httpd's user has to get to its store; a temporary directory is 0700.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    for part in ["logs", "htdocs"] {
        fs::create_dir(dir.path().join(part)).expect("it is empty");
    }
    dir
}

fn write_conf(conf: &Conf, dir: &Path, ports: [u16; 2]) -> PathBuf {
    let path = dir.join("httpd.conf");
    fs::write(&path, conf.file(dir, ports)).expect("the directory can be written");
    path
}

fn httpd(dir: &Path, conf: &Path) -> Command {
    let mut command = Command::new(&Installation::find().program);
    command.arg("-d").arg(dir).arg("-f").arg(conf);
    command
}

fn spawn(conf: &Conf, dir: &Path, file: &Path) -> Child {
    let words = File::create(dir.join("logs/stderr.log")).expect("the directory can be written");
    let mut command = httpd(dir, file);
    command.arg("-DFOREGROUND").envs(conf.environment.iter().cloned()).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
    command.spawn().expect("httpd can be run")
}

fn free_ports() -> [u16; 2] {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let both = [bind(), bind()];
    both.each_ref().map(|one| one.local_addr().expect("it is bound").port())
}

fn pid_of(process: &Child) -> Pid {
    Pid::from_child(process)
}

/// A process's state and its parent.
fn stat_of(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            _ => found.push(entry.path()),
        }
    }
}
