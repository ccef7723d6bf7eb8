package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	binaries  = "/usr/lib/postgresql"
	superuser = "siesta"
	port      = 5432 // names the socket file only: the server does not listen on TCP
)

// Borrow is the environment variable that names the socket directory of another process' server, for what starts the same
// tests thousands of times. That process has made its own databases first, the migrated template among them.
const Borrow = "SIESTA_TEST_POSTGRES"

// cluster is one running server.
type cluster struct {
	socket   string
	borrowed bool
}

// watch waits until its standard input ends, which the kernel guarantees when
// this process is gone, then stops the server and removes its directory.
const watch = `cat >/dev/null; kill -QUIT "$1" 2>/dev/null
n=0; while kill -0 "$1" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
kill -KILL "$1" 2>/dev/null; rm -rf "$2"`

func start() (*cluster, error) {
	if socket := os.Getenv(Borrow); socket != "" {
		return &cluster{socket: socket, borrowed: true}, nil
	}
	bin, err := newest()
	if err != nil {
		return nil, err
	}
	as, owner, err := runAs()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(owner)
	if err != nil {
		return nil, err
	}
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "run")
	for _, d := range []string{data, socket} {
		if err := ownedDir(d, owner); err != nil {
			return nil, err
		}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", data, "--username", superuser,
		"--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	initdb.Dir, initdb.Env = dir, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("making test cluster: %w\n%s", err, bytes.TrimSpace(out)), os.RemoveAll(dir))
	}

	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("making test cluster's log: %w", err)
	}
	defer logFile.Close()
	// Durability stays at its defaults: benchmarks run here too.
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", socket, "-p", strconv.Itoa(port),
		"-c", "listen_addresses=", "-c", "max_connections=300", "-c", "max_prepared_transactions=4")
	server.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setsid: true}
	server.Dir, server.Env = dir, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	server.Stdout, server.Stderr = logFile, logFile
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("starting test cluster: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	if err := startWatcher(server.Process.Pid, dir); err != nil {
		return nil, errors.Join(err, server.Process.Signal(syscall.SIGQUIT))
	}
	c := &cluster{socket: socket}
	if err := c.await(ended); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		return nil, fmt.Errorf("starting test cluster: %w\n%s", err, bytes.TrimSpace(text))
	}
	return c, nil
}

// newest returns the bin directory of the highest server version installed.
func newest() (string, error) {
	found, err := filepath.Glob(filepath.Join(binaries, "*", "bin", "initdb"))
	if err != nil {
		return "", fmt.Errorf("looking for PostgreSQL: %w", err)
	}
	best, highest := "", -1
	for _, path := range found {
		dir := filepath.Dir(path)
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && version > highest {
			best, highest = dir, version
		}
	}
	if best == "" {
		return "", fmt.Errorf("looking for PostgreSQL: no server under %s, install the package postgresql", binaries)
	}
	return best, nil
}

// runAs names the account of the server, which refuses to run as root.
func runAs() (*syscall.Credential, int, error) {
	if os.Geteuid() != 0 {
		return nil, os.Geteuid(), nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, 0, fmt.Errorf("reading uid of %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, 0, fmt.Errorf("reading gid of %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, int(uid), nil
	}
	return nil, 0, errors.New("starting test cluster: running as root, and neither postgres nor nobody is an account here")
}

// makeDir makes the cluster's directory where another account can reach it; a
// socket path must also stay under 108 bytes, so long TMPDIRs are not used.
func makeDir(owner int) (string, error) {
	parent := os.TempDir()
	if os.Geteuid() == 0 || len(parent) > 60 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "siesta-pgtest-")
	if err != nil {
		return "", fmt.Errorf("making test cluster's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", fmt.Errorf("making test cluster's directory: %w", err)
	}
	if err := os.Chown(dir, owner, -1); err != nil {
		return "", fmt.Errorf("making test cluster's directory: %w", err)
	}
	return dir, nil
}

func ownedDir(dir string, owner int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making test cluster's directory: %w", err)
	}
	if err := os.Chown(dir, owner, -1); err != nil {
		return fmt.Errorf("making test cluster's directory: %w", err)
	}
	return nil
}

func startWatcher(pid int, dir string) error {
	watcher := exec.Command("/bin/sh", "-c", watch, "sh", strconv.Itoa(pid), dir)
	watcher.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := watcher.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting test cluster's watcher: %w", err)
	}
	if err := watcher.Start(); err != nil {
		return fmt.Errorf("starting test cluster's watcher: %w", err)
	}
	lifeline = pipe
	return nil
}

// lifeline is the write end of the watcher's pipe. It is never written to; it
// is close-on-exec, so only the end of this process closes it, and it is kept
// here because a collected pipe would be closed too early.
var lifeline io.WriteCloser

func (c *cluster) await(ended <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=postgres", c.socket, port, superuser))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case exit := <-ended:
			return fmt.Errorf("server ended: %w", exit)
		case <-ctx.Done():
			return fmt.Errorf("server does not answer: %w", err)
		case <-tick.C:
		}
	}
}
