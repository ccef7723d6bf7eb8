package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var record = flag.Bool("record", false, "compute testdata/digest/random.json anew with the tool in SIESTA_SNP_MEASURE")

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode(t testing.TB, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(file(t, name), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func sum(b []byte) *[32]byte {
	s := sha256.Sum256(b)
	return &s
}

// TestDigestVectors holds the calculator against the digests of the reference
// calculator over a real firmware's metadata.
func TestDigestVectors(t *testing.T) {
	var vectors []struct {
		Firmware, Kernel, Initrd, Cmdline *string
		VCPUs                             int    `json:"vcpus"`
		Type                              string `json:"vcpu_type"`
		Signature                         uint32 `json:"vcpu_signature"`
		Features                          uint64 `json:"sev_features"`
		Digest                            string `json:"launch_digest"`
	}
	decode(t, "digest/vectors.json", &vectors)
	if len(vectors) != 18 {
		t.Fatalf("%d vectors, want 18", len(vectors))
	}
	for i, v := range vectors {
		if sig, ok := VCPUSig(v.Type); !ok || sig != v.Signature {
			t.Errorf("vector %d: signature of %s is %#x, want %#x", i, v.Type, sig, v.Signature)
		}
		in := DigestInput{Firmware: file(t, "digest/"+*v.Firmware), VCPUs: v.VCPUs, VCPUSig: v.Signature, GuestFeatures: v.Features}
		if v.Kernel != nil {
			in.KernelSHA256 = sum(file(t, "digest/"+*v.Kernel))
			if v.Cmdline != nil {
				in.Append = *v.Cmdline
			}
			if v.Initrd != nil {
				in.InitrdSHA256 = sum(file(t, "digest/"+*v.Initrd))
			}
		}
		got, err := LaunchDigest(in)
		if err != nil {
			t.Errorf("vector %d: %v", i, err)
		} else if hex.EncodeToString(got[:]) != v.Digest {
			t.Errorf("vector %d: %x, want %s", i, got, v.Digest)
		}
	}
}

// digestCase is one random launch. Firmware is made from the real suffix: pages
// in front, and two words of its table changed.
type digestCase struct {
	FirmwareSeed  uint64 `json:"firmware_seed"`
	FirmwarePages int    `json:"firmware_pages"`
	ResetEIP      uint32 `json:"reset_eip"`
	HashesOffset  uint32 `json:"hashes_offset"`
	Kernel        string `json:"kernel"` // hex; empty for none
	Initrd        string `json:"initrd"` // hex; empty for none
	Append        string `json:"append"`
	VCPUs         int    `json:"vcpus"`
	Type          string `json:"vcpu_type,omitempty"`
	Signature     uint32 `json:"vcpu_signature"`
	Features      uint64 `json:"guest_features"`
	Digest        string `json:"digest"`
}

func randomCase(r *rand.Rand) digestCase {
	c := digestCase{
		FirmwareSeed:  r.Uint64(),
		FirmwarePages: r.IntN(4),
		ResetEIP:      r.Uint32() | 1,
		HashesOffset:  uint32(r.IntN(pageSize - 176)),
		VCPUs:         1 + r.IntN(8),
		Features:      r.Uint64() >> (1 + r.IntN(63)),
	}
	blob := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return hex.EncodeToString(b)
	}
	if r.IntN(8) > 0 {
		c.Kernel = blob(1 + r.IntN(64))
		if r.IntN(4) > 0 {
			c.Initrd = blob(1 + r.IntN(64))
		}
		line := make([]byte, r.IntN(MaxAppend+1))
		for i := range line {
			line[i] = byte(' ' + 1 + r.IntN('~'-' '))
		}
		// A leading dash would be an option to the tool.
		c.Append = strings.TrimLeft(string(line), "-")
	}
	if names := []string{"EPYC", "EPYC-v4", "EPYC-IBPB", "EPYC-Rome-v3", "EPYC-Milan-v2", "EPYC-Genoa-v1", "EPYC-Turin"}; r.IntN(2) == 0 {
		c.Type = names[r.IntN(len(names))]
		c.Signature = vcpuSignatures[c.Type]
	} else {
		c.Signature = r.Uint32()
	}
	return c
}

func (c digestCase) firmware(t testing.TB) []byte {
	t.Helper()
	suffix := bytes.Clone(file(t, "digest/ovmf_AmdSev_suffix.bin"))
	// An entry ends with its length and name; the reset block holds one word, that
	// of the hash table two, the address first.
	for _, w := range []struct {
		name   guid
		before int
		value  uint32
	}{{guidResetBlock, 6, c.ResetEIP}, {guidHashTable, 10, c.HashesOffset | 0x80000}} {
		at := bytes.LastIndex(suffix, w.name[:])
		if at < w.before {
			t.Fatal("the firmware suffix lacks a table entry")
		}
		binary.LittleEndian.PutUint32(suffix[at-w.before:], w.value)
	}
	var front []byte
	for i := uint64(0); len(front) < c.FirmwarePages*pageSize; i++ {
		s := sha256.Sum256(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, c.FirmwareSeed), i))
		front = append(front, s[:]...)
	}
	return append(front, suffix...)
}

func (c digestCase) compute(t testing.TB) string {
	t.Helper()
	in := DigestInput{Firmware: c.firmware(t), Append: c.Append, VCPUs: c.VCPUs, VCPUSig: c.Signature, GuestFeatures: c.Features}
	if c.Kernel != "" {
		in.KernelSHA256 = sum(unhex(t, c.Kernel))
	}
	if c.Initrd != "" {
		in.InitrdSHA256 = sum(unhex(t, c.Initrd))
	}
	got, err := LaunchDigest(in)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(got[:])
}

// measureAll asks the reference tool, one process for all cases: the interpreter
// that the tool was installed with, running a driver that imports it.
func measureAll(t testing.TB, tool string, cases []digestCase) []string {
	t.Helper()
	var in bytes.Buffer
	for _, c := range cases {
		if err := json.NewEncoder(&in).Encode(map[string]any{
			"ovmf": c.firmware(t), "kernel": unhex(t, c.Kernel), "initrd": unhex(t, c.Initrd), "append": c.Append,
			"vcpus": c.VCPUs, "type": c.Type, "signature": c.Signature, "features": c.Features,
		}); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(filepath.Dir(tool), "python3"), filepath.Join("testdata", "digest", "measure.py"))
	cmd.Stdin = &in
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sev-snp-measure: %v\n%s", err, problems.Bytes())
	}
	digests := strings.Fields(string(out))
	if len(digests) != len(cases) {
		t.Fatalf("%d digests for %d cases", len(digests), len(cases))
	}
	return digests
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const recordedCases = "digest/random.json"

// TestDigestOfRandomLaunches compares with sev-snp-measure 0.0.13: always with
// its recorded answers, and with the tool itself where SIESTA_SNP_MEASURE names it.
func TestDigestOfRandomLaunches(t *testing.T) {
	tool := os.Getenv("SIESTA_SNP_MEASURE")
	if *record {
		r := rand.New(rand.NewPCG(20261123, 3))
		cases := make([]digestCase, 200)
		for i := range cases {
			cases[i] = randomCase(r)
		}
		for i, d := range measureAll(t, tool, cases) {
			cases[i].Digest = d
		}
		data, err := json.MarshalIndent(cases, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("testdata", recordedCases), append(data, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var cases []digestCase
	decode(t, recordedCases, &cases)
	if len(cases) != 200 {
		t.Fatalf("%d recorded cases, want 200", len(cases))
	}
	for i, c := range cases {
		if got := c.compute(t); got != c.Digest {
			t.Errorf("recorded case %d: %s, want %s", i, got, c.Digest)
		}
	}
	if tool == "" {
		t.Log("SIESTA_SNP_MEASURE is not set: compared with recorded answers of the tool only")
		return
	}
	// A thousand that nobody has seen before, and the seed to see them again.
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	fresh := make([]digestCase, 1000)
	for i := range fresh {
		fresh[i] = randomCase(r)
	}
	for i, want := range measureAll(t, tool, fresh) {
		if got := fresh[i].compute(t); got != want {
			t.Fatalf("seed %d, case %d: %s, the tool says %s", seed, i, got, want)
		}
	}
	t.Logf("%d launch digests equal the tool's, seed %d", len(fresh), seed)
}

func TestDigestRefuses(t *testing.T) {
	ovmf := file(t, "digest/ovmf_AmdSev_suffix.bin")
	kernel := sum([]byte("kernel"))
	at := func(name guid) int { return bytes.LastIndex(ovmf, name[:]) }
	patched := func(offset int, b ...byte) []byte {
		fw := bytes.Clone(ovmf)
		copy(fw[offset:], b)
		return fw
	}
	good := DigestInput{Firmware: ovmf, KernelSHA256: kernel, VCPUs: 2, VCPUSig: 1, GuestFeatures: 1, Append: "siesta.gen=1"}
	if _, err := LaunchDigest(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*DigestInput){
		"no firmware":              func(in *DigestInput) { in.Firmware = nil },
		"half a page":              func(in *DigestInput) { in.Firmware = ovmf[:2048] },
		"too large":                func(in *DigestInput) { in.Firmware = make([]byte, maxFirmwareBytes+pageSize) },
		"no table":                 func(in *DigestInput) { in.Firmware = make([]byte, pageSize) },
		"no processors":            func(in *DigestInput) { in.VCPUs = 0 },
		"too many processors":      func(in *DigestInput) { in.VCPUs = maxVCPUs + 1 },
		"line that Nova would cut": func(in *DigestInput) { in.Append = strings.Repeat("x", 256) },
		"line with a NUL":          func(in *DigestInput) { in.Append = "a\x00b" },
		"line without kernel":      func(in *DigestInput) { in.KernelSHA256 = nil },
		"initrd without kernel":    func(in *DigestInput) { in.KernelSHA256, in.Append, in.InitrdSHA256 = nil, "", kernel },
		"no SEV metadata":          func(in *DigestInput) { in.Firmware = patched(at(guidSEVMetadata), 0xff) },
		"no reset block":           func(in *DigestInput) { in.Firmware = patched(at(guidResetBlock), 0xff) },
		"no hash table":            func(in *DigestInput) { in.Firmware = patched(at(guidHashTable), 0xff) },
		"metadata outside":         func(in *DigestInput) { in.Firmware = patched(at(guidSEVMetadata)-6, 0xff, 0xff, 0xff, 0xff) },
		"metadata at the very end": func(in *DigestInput) { in.Firmware = patched(at(guidSEVMetadata)-6, 8, 0, 0, 0) },
		"entry of no length":       func(in *DigestInput) { in.Firmware = patched(at(guidSEVMetadata)-2, 0, 0) },
		"entry beyond the table":   func(in *DigestInput) { in.Firmware = patched(at(guidSEVMetadata)-2, 0xff, 0xff) },
		"metadata signature":       func(in *DigestInput) { in.Firmware = patched(bytes.LastIndex(ovmf, metadataMagic), 'X') },
		"metadata version":         func(in *DigestInput) { in.Firmware = patched(bytes.LastIndex(ovmf, metadataMagic)+8, 2) },
		"too many sections":        func(in *DigestInput) { in.Firmware = patched(bytes.LastIndex(ovmf, metadataMagic)+12, 0xff, 0xff) },
		"section not on a page":    func(in *DigestInput) { in.Firmware = patched(bytes.LastIndex(ovmf, metadataMagic)+16, 1) },
		"section too large":        func(in *DigestInput) { in.Firmware = patched(bytes.LastIndex(ovmf, metadataMagic)+20, 0, 0, 0, 0xff) },
		"section of unknown kind":  func(in *DigestInput) { in.Firmware = patched(bytes.LastIndex(ovmf, metadataMagic)+24, 9) },
		"hashes across the page":   func(in *DigestInput) { in.Firmware = patched(at(guidHashTable)-10, 0xff, 0x0f) },
	} {
		in := good
		change(&in)
		if got, err := LaunchDigest(in); err == nil || got != [48]byte{} {
			t.Errorf("%s: no error", name)
		}
	}
	one := good
	one.Firmware, one.VCPUs = patched(at(guidResetBlock), 0xff), 1
	if _, err := LaunchDigest(one); err != nil {
		t.Errorf("one processor needs no reset block: %v", err)
	}
	if _, ok := VCPUSig("Cascadelake-Server"); ok {
		t.Error("a model that is not AMD's has a signature")
	}
}

func FuzzLaunchDigest(f *testing.F) {
	f.Add(file(f, "digest/ovmf_AmdSev_suffix.bin"))
	f.Fuzz(func(_ *testing.T, fw []byte) {
		_, _ = LaunchDigest(DigestInput{Firmware: fw, KernelSHA256: sum(nil), VCPUs: 2, GuestFeatures: 1})
	})
}
