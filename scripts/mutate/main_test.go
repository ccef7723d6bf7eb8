package main

import (
	"go/parser"
	"go/token"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The sample's tests pin one function well, one half, one with a loop that a mutant never leaves, and one not at all.
func TestFates(t *testing.T) {
	p, err := load(t.Context(), "./testdata/sample", "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary, err := p.build(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	x := &tests{binary: binary, dir: p.dir, tmp: dir}
	if err := x.survey(t.Context(), len(p.mutants), time.Minute, func(test) {}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range p.mutants {
		fate, err := x.judge(m.id, false)
		if err != nil {
			t.Fatal(err)
		}
		got[m.what] = fate
		if control, err := x.judge(m.id, true); err != nil || control != survived && control != unseen {
			t.Errorf("%s: the control was %s, %v", m.what, control, err)
		}
	}
	for what, want := range map[string]string{
		"age >= adult → not":                killed,
		"age >= adult → >":                  killed,
		"age >= adult && !barred → ||":      killed,
		"barred → not":                      killed,
		"a > b → not":                       killed,
		"a > b → >=":                        survived, // for equal numbers both are right
		"a > b → never":                     killed,
		"n > 0 → >=":                        survived, // nothing more is added
		"n-- → taken away":                  timedOut,
		"total += n → taken away":           killed,
		"f&mask → |":                        killed,
		"f&mask != 0 → not":                 killed,
		"true → not":                        unseen,
		"2 → +1":                            unseen,
		"2 → -1":                            unseen,
		"d*2 → /":                           unseen,
		"append(out, d*2) == nil → not":     unseen,
		"s.count = 1 → taken away":          killed,
		"1 → +1":                            killed,
		"first(s) || second(s) → &&":        killed,
		"second(s) → not":                   unseen,
		"err := check(s); err != nil → not": "", // a mutant is of the condition, not of the statement
	} {
		if got[what] != want {
			t.Errorf("%s: %q, want %q", what, got[what], want)
		}
	}
}

// Woven and switched off, a file is the same program: it parses, and without the switches it has the same text.
func TestWeaveOfTheSample(t *testing.T) {
	p, err := load(t.Context(), "./testdata/sample", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.files {
		woven := weave(s.text, s.mutants)
		if _, err := parser.ParseFile(token.NewFileSet(), s.path, woven, 0); err != nil {
			t.Errorf("%s: %v\n%s", s.path, err, woven)
		}
		if strings.Count(string(woven), "\n") != strings.Count(string(s.text), "\n") {
			t.Errorf("%s: lines have moved", s.path)
		}
		if string(weave(s.text, nil)) != string(s.text) {
			t.Errorf("%s: without mutants it is another text", s.path)
		}
	}
}

// A run that draws a sample names the figure's uncertainty, and fails when a test is not steady.
func TestRun(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "run", ".", "-tags", "", "-sample", "5", "-files", "sample", "./testdata/sample")
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{`a sample of 5 of \d+: [\d.]+ % ± [\d.]+`, `controls: 1, of which 0 failed`, `sample +5 mutants`} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
