package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Fates of a mutant.
const (
	killed   = "killed"
	timedOut = "timed out"
	survived = "survived"
	unseen   = "not reached"
)

const noFailFile = "-rapid.nofailfile"

// memory is what one test process may map, in KiB: a mutant that never stops appending ends here.
const memory = 16 << 20

// tests is the compiled test binary of a woven package.
type tests struct {
	binary, dir, tmp string
	env, flags       []string
	all              []test
}

type test struct {
	name       string
	took, cost time.Duration // by the clock, and of the processor
	reached    []byte        // by mutant
}

// run runs the named tests with one mutant switched on; 0 is none.
func (t *tests) run(mutant int, names []string, limit time.Duration, env ...string) (passed bool, cost time.Duration, output []byte, err error) {
	tmp, err := os.MkdirTemp(t.tmp, "run-")
	if err != nil {
		return false, 0, nil, err
	}
	defer os.RemoveAll(tmp)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for i, n := range names {
		names[i] = regexp.QuoteMeta(n)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", fmt.Sprintf(`ulimit -v %d; exec "$@"`, memory), "sh",
		t.binary, "-test.failfast", "-test.paniconexit0", "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Args = append(cmd.Args, t.flags...)
	cmd.Dir = t.dir
	cmd.Env = append(append(os.Environ(), "TMPDIR="+tmp, "MUTANT="+strconv.Itoa(mutant)), append(t.env, env...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	output, err = cmd.CombinedOutput()
	if s := cmd.ProcessState; s != nil {
		cost = s.UserTime() + s.SystemTime()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, cost, output, ctx.Err()
	case errors.As(err, &exit):
		return false, cost, output, nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return false, cost, output, fmt.Errorf("running tests: %w", err)
	}
	return err == nil, cost, output, nil
}

// survey runs every test by itself and keeps what it took and which mutants it reached. One that costs more than longest
// takes no further part.
func (t *tests) survey(ctx context.Context, mutants int, longest time.Duration, each func(test)) error {
	// Where the tests use rapid, it would keep what made a mutant fail in the tree.
	if exec.CommandContext(ctx, t.binary, "-test.list", "^$", noFailFile).Run() == nil {
		t.flags = []string{noFailFile}
	}
	out, err := exec.CommandContext(ctx, t.binary, "-test.list", "^(Test|Fuzz|Example)").Output()
	if err != nil {
		return fmt.Errorf("listing tests: %w", err)
	}
	for _, name := range strings.Fields(string(out)) {
		path := filepath.Join(t.tmp, "reached")
		if err := os.WriteFile(path, make([]byte, mutants+1), 0o600); err != nil {
			return err
		}
		start := time.Now()
		passed, cost, output, err := t.run(0, []string{name}, 10*time.Minute, "MUTANT_REACHED="+path)
		if err != nil || !passed {
			return errors.Join(fmt.Errorf("%s fails without any mutant\n%s", name, output), err)
		}
		x := test{name: name, took: time.Since(start), cost: cost}
		if x.reached, err = os.ReadFile(path); err != nil {
			return err
		}
		if each(x); x.cost <= longest {
			t.all = append(t.all, x)
		}
	}
	slices.SortStableFunc(t.all, func(a, b test) int { return int(a.took - b.took) })
	return nil
}

// judge runs the tests that reach a mutant, the quick ones first. With control no mutant is switched on, so that all of
// them must pass.
func (t *tests) judge(id int, control bool) (fate string, err error) {
	var reach []test
	for _, x := range t.all {
		if x.reached[id] != 0 {
			reach = append(reach, x)
		}
	}
	if len(reach) == 0 {
		return unseen, nil
	}
	on := id
	if control {
		on = 0
	}
	for limit := time.Second; len(reach) > 0; limit *= 5 {
		var names []string
		var took time.Duration
		for len(reach) > 0 && (len(names) == 0 || took+reach[0].took <= limit) {
			names, took, reach = append(names, reach[0].name), took+reach[0].took, reach[1:]
		}
		passed, _, _, err := t.run(on, names, 10*took+5*time.Second)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return timedOut, nil
		case err != nil:
			return "", err
		case !passed:
			return killed, nil
		}
	}
	return survived, nil
}
