//go:build !devtee

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestProductionCannotSimulate builds the daemon as it is shipped and looks for the development build's field, words
// and code. What is not in the binary cannot be configured.
func TestProductionCannotSimulate(t *testing.T) {
	traces := []string{"simulated_roots", "simulated_intel_root", "SimulatedRoots", "SimulatedIntelRoot", "WithSimulated", "softpsp", "softtd", "devfirmware", "cloudsim", "internal/lab/", "DEVELOPMENT BUILD"}
	production := build(t)
	for _, trace := range traces {
		if bytes.Contains(production, []byte(trace)) {
			t.Errorf("the production binary contains %q", trace)
		}
	}
	// The same search finds what a development build must have, so that it cannot pass by looking for the wrong words.
	development := build(t, "-tags", "devtee")
	for _, trace := range []string{"simulated_roots", "simulated_intel_root", "WithSimulatedIntel", "DEVELOPMENT BUILD"} {
		if !bytes.Contains(development, []byte(trace)) {
			t.Errorf("the development binary lacks %q", trace)
		}
	}
}

func build(t *testing.T, flags ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "siestad")
	args := append(append([]string{"build", "-trimpath"}, flags...), "-o", path, ".")
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestProductionRefusesTheDevelopmentField(t *testing.T) {
	_, err := loadConfig(writeConfig(t, "installation: test0001", "installation: test0001\nsimulated_roots: x.pem", "tee: sev-snp", "tee: simulated"))
	if err == nil || !strings.Contains(err.Error(), "simulated_roots") || !strings.Contains(err.Error(), "choose from sev-snp") {
		t.Errorf("got %v", err)
	}
}
