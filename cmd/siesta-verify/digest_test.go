package main

import (
	"bytes"
	"encoding/json"
	"os"
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
		"another kind":       args("--vcpu-sig", "1", "--tee", "sgx"),
		"memory":             args("--vcpu-sig", "1", "--memory", "2048"),
	} {
		if out, err := runDigest(bad...); err == nil {
			t.Errorf("%s: no error, printed %q", name, out)
		}
	}
}

// TestDigestOfTrustDomain prints a vector of other calculators.
func TestDigestOfTrustDomain(t *testing.T) {
	args := func(more ...string) []string {
		return append([]string{
			"--tee", "tdx", "--firmware", digestData + "td-firmware.bin", "--kernel", digestData + "td-kernel.bin", "--initrd", digestData + "initrd.bin",
			"--append", "siesta.ws=example", "--memory", "2048",
		}, more...)
	}
	var vectors []struct {
		MRTD         string
		RTMR1, RTMR2 []string
	}
	data, err := os.ReadFile(digestData + "td-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	want := []string{"mrtd   " + vectors[1].MRTD}
	for _, v := range vectors[1].RTMR1 {
		want = append(want, "rtmr1  "+v)
	}
	for _, v := range vectors[1].RTMR2 {
		want = append(want, "rtmr2  "+v)
	}
	if got, err := runDigest(args()...); err != nil || got != strings.Join(want, "\n") {
		t.Errorf("%s, %v", got, err)
	}
	for name, c := range map[string]struct {
		args []string
		word string
	}{
		"no memory":               {args()[:10], "--memory is missing"},
		"no kernel":               {args("--kernel", ""), "reading kernel"},
		"no such initrd":          {args("--initrd", "/nonexistent"), "reading initrd"},
		"no such firmware":        {args("--firmware", "/nonexistent"), "reading firmware"},
		"a kernel as firmware":    {args("--firmware", digestData+"initrd.bin"), "reading firmware"},
		"a kernel without a stub": {args("--kernel", digestData+"kernel.bin"), "no Linux kernel"},
		"processors":              {args("--vcpus", "2"), "--vcpus decides none"},
	} {
		if out, err := runDigest(c.args...); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, printed %q", name, err, out)
		}
	}
}
