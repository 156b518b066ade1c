"""The servers of the benchmark: what every server is to it, and those that are an httpd, with their configuration in conf/.

The other caches are in peers.py. Everything listens on 127.0.0.1, lives below the work folder and is ended by its process id.
"""
import ctypes
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CPU_CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED, as clock_getcpuclockid() forms it
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1


def find_httpd():
    for name in ("apache2", "httpd"):
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if path:
            return path
    raise SystemExit("bench: no httpd found")


HTTPD = find_httpd()
MODULES = subprocess.check_output(["apxs", "-q", "LIBEXECDIR"], text=True).strip()


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A server, with a port for each name in `ports`. Who inherits says what is run: `command`, which also writes what that needs."""

    def __init__(self, work, name, ports, folders=()):
        self.folder = os.path.join(work, name)
        self.name, self.folders = name, folders
        self.ports = {port: free_port() for port in ports}
        self.process = None

    def command(self, *options):
        raise NotImplementedError

    def start(self, *options, prefix=(), keep=False):
        """Starts it and returns when all its ports are open; `keep` leaves the folder as it is."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.make_folders()
        command = [*prefix, *self.command(*options)]
        with open(os.path.join(self.folder, "output.log"), "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, preexec_fn=die_with_parent,
            )
        for port in self.ports.values():
            self._wait_for(port)
        return self

    def make_folders(self):
        """Makes the folders that the server's user writes to."""
        os.makedirs(self.folder, exist_ok=True)
        os.chmod(self.folder, 0o755)
        for name in self.folders:
            path = os.path.join(self.folder, name)
            os.makedirs(path, exist_ok=True)
            if os.geteuid() == 0:
                user = pwd.getpwnam(run_user())
                os.chown(path, user.pw_uid, user.pw_gid)

    def _wait_for(self, port, deadline_secs=60):
        end = time.monotonic() + deadline_secs
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"bench: {self.name} ended at its start; see {self.folder}/*.log")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise SystemExit(f"bench: {self.name} does not open port {port}; see {self.folder}/*.log")
                time.sleep(0.01)

    def stop(self):
        if not self.process:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            pids = self.pids()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def remove(self):
        """Removes what it stored and logged; the error log and the configuration stay."""
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else ():
            path = os.path.join(self.folder, name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif name.endswith("access.log"):
                os.unlink(path)

    def pids(self):
        """The server's processes, parent first."""
        found, todo = [], [self.process.pid] if self.process else []
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as f:
                    todo += [int(child) for child in f.read().split()]
            except OSError:
                pass
        return found

    def cpu_ns(self):
        """CPU time of all its processes, to the nanosecond."""
        return sum(time.clock_gettime_ns((~pid << 3) | CPU_CLOCK_OF_PROCESS) for pid in self.pids())

    def switches(self):
        """Context switches of all its threads so far, voluntary or not."""
        total = 0
        for pid in self.pids():
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/status") as f:
                    total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
        return total


class Server(Process):
    """An httpd with conf/`conf`."""

    def __init__(self, work, name, conf, ports, defines=(), folders=()):
        super().__init__(work, name, ports, folders)
        self.conf, self.defines = conf, dict(defines)

    def command(self, *options):
        conf = os.path.join(self.folder, "httpd.conf")
        with open(conf, "w") as out:
            out.write(self._configuration())
        return [HTTPD, "-f", conf, *(options or ["-DFOREGROUND"])]

    def answered(self):
        """Requests that its access.log holds."""
        with open(os.path.join(self.folder, "access.log"), "rb") as log:
            return sum(1 for _ in log)

    def _configuration(self):
        defines = {"CHILDREN": 2, "THREADS": 128, "WORK": self.folder, "MODULES": MODULES, **self.defines, **self.ports}
        defines["WORKERS"] = defines["CHILDREN"] * defines["THREADS"]
        if os.geteuid() == 0:
            user = pwd.getpwnam(run_user())
            defines |= {"AS_ROOT": "", "RUN_USER": user.pw_name, "RUN_GROUP": grp.getgrgid(user.pw_gid).gr_name}
        lines = [f'Define {k} "{v}"' if v != "" else f"Define {k}" for k, v in defines.items()]
        lines += [f'Include "{HERE}/conf/{name}.conf"' for name in ("head", self.conf)]
        return "\n".join(lines) + "\n"


def run_user():
    """The user that httpd runs as when root starts it."""
    for name in ("www-data", "apache", "daemon", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            pass
    raise SystemExit("bench: no user to run httpd as")


def make_all(work, content, module):
    """The servers by name: storage, module, recipe, tuned, static."""
    shared = {"CONTENT": content, "SUBBENCH": os.path.join(work, "mod_subbench.so")}
    storage = Server(work, "storage", "storage", ["STORAGE"], shared)
    shared = {**shared, **storage.ports}
    recipe = ["FRONT", "CACHE"]
    return {
        "storage": storage,
        "module": Server(
            work, "module", "module", ["OUTSIDE", "INSIDE", "WITHOUT"], {**shared, "MODULE": module}, ["callgrind"]
        ),
        "recipe": Server(work, "recipe", "recipe", recipe, shared, ["cache"]),
        "tuned": Server(work, "tuned", "recipe", recipe, {**shared, "TUNED": ""}, ["cache", "lock"]),
        "static": Server(work, "static", "static", ["SENDFILE", "MMAP"], shared),
    }
