package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts plays what people type into the programs as they are shipped, each script against a service of its own. This
// test's own binary would be the wrong program: with the service and the race detector in it, it starts many times slower.
func TestScripts(t *testing.T) {
	programs := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", programs, ".", "../siesta-verify").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			r := newRig(t)
			env.Values["rig"] = r
			for name, value := range map[string]string{
				"SERVICE": r.server.URL, "SIESTA_SERVER": r.server.URL, "SIESTA_CONFIG_DIR": env.WorkDir,
				"PATH":   programs + string(filepath.ListSeparator) + env.Getenv("PATH"),
				"ISSUER": r.issuer.URL, "CHIP": r.chip, "GUEST1": guestOne, "GUEST2": guestTwo, "ACCEPTED": accepted, "REFUSED": refused,
			} {
				env.Setenv(name, value)
			}
			return r.writeFloorKeys(env.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"as": as, "keep": keep, "json": jsonIs, "fill": fill, "sql": sql},
	})
}

// as NAME: who types from here on.
func as(ts *testscript.TestScript, _ bool, args []string) {
	if roles[args[0]] == "" {
		ts.Fatalf("nobody here is called %s", args[0])
	}
	token, err := ts.Value("rig").(*rig).token(args[0])
	ts.Check(err)
	ts.Setenv("SIESTA_TOKEN", token)
}

// keep VARIABLE: the id that the last command printed.
func keep(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(`(?m)^id +(\S+)`).FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("the last command printed no id")
	}
	ts.Setenv(args[0], found[1])
}

// json PATH VALUE: what the last command printed is one JSON text, and has this value there; a number of a path is that of
// an item, and of a list itself the value is its length.
func jsonIs(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for name := range strings.FieldsFuncSeq(args[0], func(r rune) bool { return r == '.' }) {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(at) {
				ts.Fatalf("%s: a list of %d has no %s", args[0], len(at), name)
			}
			v = at[i]
		default:
			ts.Fatalf("%s: there is no %s in %v", args[0], name, v)
		}
	}
	if list, ok := v.([]any); ok {
		v = len(list)
	}
	if (fmt.Sprint(v) == args[1]) == neg {
		ts.Fatalf("%s is %v", args[0], v)
	}
}

// sql STATEMENT: what happens in the database behind the service's back.
func sql(ts *testscript.TestScript, _ bool, args []string) {
	_, err := ts.Value("rig").(*rig).db.Exec(context.Background(), args[0])
	ts.Check(err)
}

// fill FILE BYTES: a file of so many blanks.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte(" "), n), 0o600))
}
