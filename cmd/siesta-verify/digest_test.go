package main

import (
	"bytes"
	"strings"
	"testing"
)

func runDigest(args ...string) (string, error) {
	cmd := digestCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return strings.TrimSpace(out.String()), err
}

const digestData = "../../internal/attest/testdata/digest/"

// TestDigestCommand prints the first vector of the reference calculator.
func TestDigestCommand(t *testing.T) {
	args := func(cpu ...string) []string {
		return append([]string{
			"--firmware", digestData + "ovmf_AmdSev_suffix.bin", "--kernel", digestData + "kernel.bin", "--initrd", digestData + "initrd.bin",
			"--append", "console=ttyS0 siesta.ws=01JDEXAMPLE0000000000000000 siesta.gen=1", "--vcpus", "1", "--guest-features", "0x1",
		}, cpu...)
	}
	const want = "a57fec674bfe83499d0ce6b068fe5987f724813df90cafc8b246c4db3cc669c16d48fc5474239fb15b4c166bf62eb919"
	for _, cpu := range [][]string{{"--vcpu-type", "EPYC-v4"}, {"--vcpu-sig", "0x800f12"}, {"--vcpu-sig", "800F12"}} {
		if got, err := runDigest(args(cpu...)...); err != nil || got != want {
			t.Errorf("%v: %s, %v", cpu, got, err)
		}
	}
	for name, bad := range map[string][]string{
		"no CPU":             args(),
		"two CPUs":           args("--vcpu-type", "EPYC-v4", "--vcpu-sig", "1"),
		"unknown CPU":        args("--vcpu-type", "Skylake"),
		"signature too long": args("--vcpu-sig", "0x1ffffffff"),
		"no such kernel":     args("--vcpu-sig", "1", "--kernel", "/nonexistent"),
		"no such firmware":   args("--vcpu-sig", "1", "--firmware", "/nonexistent"),
		"not a number":       args("--vcpu-sig", "1", "--guest-features", "one"),
		"no processors":      args("--vcpu-sig", "1", "--vcpus", "0"),
		"line too long":      args("--vcpu-sig", "1", "--append", strings.Repeat("x", 256)),
		"an argument":        args("--vcpu-sig", "1", "x"),
	} {
		if out, err := runDigest(bad...); err == nil {
			t.Errorf("%s: no error, printed %q", name, out)
		}
	}
}
