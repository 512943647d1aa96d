"""The servers, one function each: how each tool's server is set up and started.

All of them run inside a namespace of this program, with ports, keys and settings of their own,
so that nothing of the host's configuration plays a part.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

from .cgroups import Group
from .links import linklab
from .namespaces import Namespace, RigError
from .processes import end_process, last_line, spawn
from .targets import BASELINE, OURS
from .workspace import Workspace

READY_S = 10.0
QUIRE_PORT, BASELINE_PORT = 4433, 4434
NGINX_PORT, CADDY_PORT, SSH_PORT, RSYNC_PORT, RAW_PORT = 8443, 8444, 2222, 8730, 9000
# Every address a server is reached by here: the two wires, the emulated links, loopback.
ADDRESSES = ("10.91.1.2", "10.91.2.2", "10.77.1.1", "127.0.0.1")
# sshd refuses to start without it; a machine that never ran its service doesn't have it.
SSHD_DIRECTORY = Path("/run/sshd")


@dataclasses.dataclass
class Site:
    """What servers and clients share: the programs, the directories, the keys."""

    workspace: Workspace
    binaries: Path
    # Those of another build to compare with.
    baseline: Path | None = None
    made_sshd_directory: bool = False
    # Of each wire, the features of its device that are on.
    offloads: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.workspace.state

    def program(self, name: str) -> str | None:
        """Where a tool is, or nothing; ours are looked for among the build output only."""
        if name == "linklab":
            return linklab()
        build, _, program = name.rpartition("/")
        if program in ("quire", "quire-server"):
            path = (self.baseline if build else self.binaries) / program
            return str(path) if os.access(path, os.X_OK) else None
        return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")

    def certificate(self) -> tuple[Path, Path]:
        certificate, key = self.state / "tls.crt", self.state / "tls.key"
        if not certificate.exists():
            names = ",".join(f"IP:{address}" for address in ADDRESSES)
            # The same kind of key as ours, so that handshakes cost the same.
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-days", "2", "-subj", "/CN=compare", "-addext", f"subjectAltName={names}",
                "-keyout", str(key), "-out", str(certificate))
        return certificate, key

    def ssh_config(self) -> Path:
        config = self.state / "ssh_config"
        if not config.exists():
            for name in ("host_key", "user_key"):
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.state / name))
            host_key = (self.state / "host_key.pub").read_text()
            known = "".join(f"[{address}]:{SSH_PORT} {host_key}" for address in ADDRESSES)
            (self.state / "known_hosts").write_text(known)
            config.write_text(f"Host *\n  Port {SSH_PORT}\n  User root\n  IdentityFile {self.state}/user_key\n"
                              f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.state}/known_hosts\n"
                              "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
                              "  LogLevel ERROR\n")
        return config

    def close(self) -> None:
        if self.made_sshd_directory:
            SSHD_DIRECTORY.rmdir()


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RigError(f"{command[0]}: {done.stderr.strip()}")


def quire_command(port: int, *parts: str) -> Callable[[Site, Path], list[str]]:
    def command(site: Site, root: Path) -> list[str]:
        return [site.program("/".join((*parts, "quire-server"))), str(root), "--listen", f"0.0.0.0:{port}",
                "--state-dir", str(site.state.joinpath(*parts, "quire"))]
    return command


def nginx_command(site: Site, root: Path) -> list[str]:
    certificate, key = site.certificate()
    prefix = site.state / "nginx"
    prefix.mkdir(exist_ok=True)
    # One worker because the server has one core; the keep-alive limit only so that 10,000 files
    # can use one connection.
    (prefix / "nginx.conf").write_text(f"""
daemon off; user root; worker_processes 1; pid {prefix}/pid; error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  server {{
    listen 0.0.0.0:{NGINX_PORT} ssl http2; root {root};
    ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};
  }}
}}
""")
    return [site.program("nginx"), "-p", str(prefix), "-c", str(prefix / "nginx.conf"), "-e", f"{prefix}/error.log"]


def caddy_command(site: Site, root: Path) -> list[str]:
    certificate, key = site.certificate()
    home = site.state / "caddy"
    home.mkdir(exist_ok=True)
    (home / "Caddyfile").write_text(f"""
{{
  admin off
  auto_https off
}}
https://:{CADDY_PORT} {{
  tls {certificate} {key}
  root * {root}
  file_server
}}
""")
    return ["env", f"XDG_CONFIG_HOME={home}", f"XDG_DATA_HOME={home}", f"HOME={home}",
            site.program("caddy"), "run", "--config", str(home / "Caddyfile"), "--adapter", "caddyfile"]


def sshd_command(site: Site, _root: Path) -> list[str]:
    site.ssh_config()
    if not SSHD_DIRECTORY.exists():
        SSHD_DIRECTORY.mkdir(mode=0o755)
        site.made_sshd_directory = True
    # The path of this shell, so that tools which start their own far end over ssh find it there, and
    # an empty home: the login shell would read its start-up files, which is no part of a transfer.
    home = site.state / "home"
    home.mkdir(exist_ok=True)
    config = site.state / "sshd_config"
    config.write_text(f"Port {SSH_PORT}\nListenAddress 0.0.0.0\nHostKey {site.state}/host_key\n"
                      f"AuthorizedKeysFile {site.state}/user_key.pub\nPermitRootLogin yes\nStrictModes no\n"
                      "UsePAM no\nPasswordAuthentication no\nPidFile none\nSubsystem sftp internal-sftp\n"
                      f"MaxStartups 100\nSetEnv PATH={os.environ['PATH']} HOME={home}\n")
    return [site.program("sshd"), "-D", "-e", "-f", str(config)]


def rsync_command(site: Site, root: Path) -> list[str]:
    config = site.state / "rsyncd.conf"
    config.write_text(f"uid = 0\ngid = 0\nuse chroot = no\nreverse lookup = no\n"
                      f"[files]\npath = {root}\nread only = no\n")
    return [site.program("rsync"), "--daemon", "--no-detach", f"--config={config}", f"--port={RSYNC_PORT}"]


def raw_command(_site: Site, root: Path) -> list[str]:
    script = Path(__file__).with_name("raw_tcp.py")
    return [sys.executable, "-I", "-S", str(script), "serve", str(RAW_PORT), str(root)]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of server: its programs, its port, and its command line."""

    programs: tuple[str, ...]
    protocol: str
    port: int
    command: Callable[[Site, Path], list[str]]


KINDS = {
    "quire": Kind(("quire-server",), "udp", QUIRE_PORT, quire_command(QUIRE_PORT)),
    BASELINE: Kind((f"{BASELINE}/quire-server",), "udp", BASELINE_PORT, quire_command(BASELINE_PORT, BASELINE)),
    "nginx": Kind(("nginx", "openssl"), "tcp", NGINX_PORT, nginx_command),
    "caddy": Kind(("caddy", "openssl"), "tcp", CADDY_PORT, caddy_command),
    "sshd": Kind(("sshd", "ssh-keygen"), "tcp", SSH_PORT, sshd_command),
    "rsync": Kind(("rsync",), "tcp", RSYNC_PORT, rsync_command),
    "raw": Kind((), "tcp", RAW_PORT, raw_command),
}


# Of two quire servers in one directory the second may not write.
WRITERS = (OURS, BASELINE)


class Servers:
    """The servers that run in one namespace, each started when first asked for."""

    def __init__(self, site: Site, namespace: Namespace, core: int | None, root: Path,
                 group: Group | None = None) -> None:
        self._site, self._namespace, self._core, self._root, self._group = site, namespace, core, root, group
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_exception) -> None:
        for process in self._running.values():
            end_process(process)

    def pid(self, name: str) -> int:
        """The process of a running server of this kind."""
        if name in WRITERS:
            for other in WRITERS:
                if other != name and other in self._running:
                    end_process(self._running.pop(other))
        process = self._running.get(name)
        if process is None or process.poll() is not None:
            process = self._running[name] = self._start(name)
        return process.pid

    def _start(self, name: str) -> subprocess.Popen:
        kind = KINDS[name]
        log = self._site.workspace.logs / f"server-{name}.log"
        process = spawn(kind.command(self._site, self._root), self._namespace, self._core, log, dies_with_us=True,
                        group=self._group)
        if not self._namespace.wait_for_port(kind.protocol, kind.port, READY_S, lambda: process.poll() is None):
            end_process(process)
            raise RigError(f"the {name} server did not start: {last_line(log)}")
        return process
