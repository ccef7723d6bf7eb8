package attest

import (
	"os/exec"
	"strings"
	"testing"
)

// TestProductionHasNoSimulation asks the toolchain what each program is made of
// without the devtee tag: neither simulated hardware nor its firmware, and of this
// package no file that could add simulated roots.
func TestProductionHasNoSimulation(t *testing.T) {
	list := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, out)
		}
		return string(out)
	}
	// The wildcard leaves out programs that exist with the tag only.
	deps := list("-deps", "../../cmd/...")
	if !strings.Contains(deps, "cmd/siestad\n") {
		t.Fatal("the daemon is not among the programs")
	}
	if !strings.Contains(deps, "internal/attest\n") {
		t.Fatal("no program uses this package")
	}
	for dep := range strings.Lines(deps) {
		if strings.Contains(dep, "internal/lab/") {
			t.Errorf("a production build links %s", dep)
		}
	}
	if !strings.Contains(list("-deps", "-tags", "devtee", "../lab/..."), "internal/lab/softtd\n") {
		t.Error("the simulated hardware is not where this test looks for it")
	}
	const files = `{{join .GoFiles "\n"}}`
	if production := list("-f", files, "."); strings.Contains(production, "devtee") || !strings.Contains(production, "roots.go") {
		t.Errorf("production files of this package: %q", production)
	}
	if development := list("-tags", "devtee", "-f", files, "."); !strings.Contains(development, "simulated_devtee.go") {
		t.Error("a development build lacks the way to simulated roots: this test would prove nothing")
	}
}
