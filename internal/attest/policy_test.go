package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func somePolicy() Policy {
	p := NovaPolicy(map[string]TCB{Milan: {Bootloader: 3, SNP: 8, Microcode: 0x73}, Genoa: {Bootloader: 10, SNP: 23, Microcode: 25}})
	p.Chips = [][]byte{bytes.Repeat([]byte{2}, 64), bytes.Repeat([]byte{1}, 64)}
	p.Measurements = [][]byte{bytes.Repeat([]byte{4}, 48)}
	return p
}

// TestPolicyHash pins the canonical form: a change of it renames every policy
// that decisions on record refer to.
func TestPolicyHash(t *testing.T) {
	p := somePolicy()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"version":1,"products":["Genoa","Milan"],"chips":["%s","%s"],"measurements":["%s"],"require_policy":"0x30000",`+
		`"min_tcb":{"Genoa":{"fmc":0,"bootloader":10,"tee":0,"snp":23,"microcode":25},"Milan":{"fmc":0,"bootloader":3,"tee":0,"snp":8,"microcode":115}},`+
		`"require_alias_check":false,"revocation":"not-judged","simulated":false}`,
		strings.Repeat("01", 64), strings.Repeat("02", 64), strings.Repeat("04", 48))
	if string(data) != want {
		t.Errorf("canonical form\n%s\nwant\n%s", data, want)
	}
	if p.Hash() != sha256.Sum256([]byte(want)) {
		t.Error("the hash is not that of the canonical form")
	}
	same := somePolicy()
	same.Chips = [][]byte{same.Chips[1], same.Chips[0], same.Chips[1]}
	same.ReportData = [64]byte{1}
	if same.Hash() != p.Hash() {
		t.Error("order, doubles or the challenge change the name of a policy")
	}
	before := same.Chips[0][0]
	if same.Hash(); same.Chips[0][0] != before {
		t.Error("hashing reorders the policy")
	}
	for name, change := range map[string]func(*Policy){
		"products":     func(p *Policy) { p.Products = p.Products[:1] },
		"chips":        func(p *Policy) { p.Chips = p.Chips[:1] },
		"measurements": func(p *Policy) { p.Measurements = nil },
		"guest policy": func(p *Policy) { p.RequirePolicy++ },
		"floor":        func(p *Policy) { p.MinTCB = map[string]TCB{Genoa: {}} },
		"alias":        func(p *Policy) { p.RequireAliasCheck = true },
		"revocation":   func(p *Policy) { p.Revocation = RevocationRequired },
		"simulated":    func(p *Policy) { p.Simulated = true },
	} {
		other := somePolicy()
		change(&other)
		if other.Hash() == p.Hash() {
			t.Errorf("%s does not change the name of a policy", name)
		}
	}
}

func TestPolicyRoundTrip(t *testing.T) {
	for _, p := range []Policy{somePolicy(), {RequirePolicy: 1<<63 | 1, Simulated: true, RequireAliasCheck: true}} {
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Policy
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if p.Hash() != back.Hash() {
			t.Errorf("a policy came back as another: %s", cmp.Diff(p, back))
		}
	}
	data, err := json.Marshal(somePolicy())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"version":1`, `"version":2`},
		{`"version"`, `"edition"`},
		{`"0x30000"`, `"30000"`},
		{`"0x30000"`, `"0xg"`},
		{`"0x30000"`, `196608`},
		{`"not-judged"`, `"never"`},
		{`"not-judged"`, `""`},
		{strings.Repeat("04", 48), "04"},
		{strings.Repeat("01", 64), "zz"},
		{`"fmc":0`, `"fmc":256`},
	} {
		bad := strings.Replace(string(data), change[0], change[1], 1)
		var p Policy
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("read a policy with %s", change[1])
		}
	}
}

func TestTCBLayouts(t *testing.T) {
	// Bytes 0 to 7, the first the lowest.
	const raw = 0x0800000004030201
	if got, ok := tcbFrom(raw, Turin); !ok || got != (TCB{FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 8}) {
		t.Errorf("Turin: %v %v", got, ok)
	}
	// Turin's SNP level lies where the others must be zero: read the wrong way it
	// is refused, never raised.
	if _, ok := tcbFrom(raw, Genoa); ok {
		t.Error("Turin's TCB was read as Genoa's")
	}
	if got, ok := tcbFrom(0x0807000000000201, Genoa); !ok || got != (TCB{Bootloader: 1, TEE: 2, SNP: 7, Microcode: 8}) {
		t.Errorf("Genoa: %v %v", got, ok)
	}
	if _, ok := tcbFrom(0x0807000000000201, Turin); ok {
		t.Error("Genoa's TCB was read as Turin's")
	}
	floor := TCB{FMC: 1, Bootloader: 1, TEE: 1, SNP: 1, Microcode: 1}
	for _, below := range []TCB{{0, 9, 9, 9, 9}, {9, 0, 9, 9, 9}, {9, 9, 0, 9, 9}, {9, 9, 9, 0, 9}, {9, 9, 9, 9, 0}} {
		if below.AtLeast(floor) {
			t.Errorf("%v is taken to be at least %v", below, floor)
		}
	}
	if !floor.AtLeast(floor) {
		t.Error("a TCB is below itself")
	}
}
