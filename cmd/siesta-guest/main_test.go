package main

import (
	"bytes"
	"strings"
	"testing"
)

// The machine that runs tests is no confidential VM, and the doctor says so and how to mend it.
func TestDoctorSaysWhatIsMissing(t *testing.T) {
	var out bytes.Buffer
	if code := doctor(&out); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range []string{"MISSING  no measured line", "MISSING  no attestation reports", "hw:mem_encryption_model"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
}
