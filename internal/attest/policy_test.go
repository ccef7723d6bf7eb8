package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
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

// wide is a policy that uses everything of version 2.
func wide() Policy {
	p := somePolicy()
	p.Platform = PlatformRules{SMT: Required, TSME: Barred}
	p.RequireMitigations, p.VLEKProvider = 1<<63|3, "cloud-one"
	td := NovaTDXPolicy()
	p.TDX = &td
	return p
}

// TestPolicyVersions writes the lowest version that can say what the policy says,
// so that policies on record keep their names.
func TestPolicyVersions(t *testing.T) {
	if !strings.HasPrefix(string(somePolicy().Canonical()), `{"version":1,`) {
		t.Errorf("an old policy is written as %.20s", somePolicy().Canonical())
	}
	for name, change := range map[string]func(*Policy){
		"platform":    func(p *Policy) { p.Platform.ECC = Required },
		"mitigations": func(p *Policy) { p.RequireMitigations = 1 },
		"provider":    func(p *Policy) { p.VLEKProvider = "cloud-one" },
		"tdx":         func(p *Policy) { p.TDX = &TDXPolicy{} },
	} {
		p := somePolicy()
		change(&p)
		if text := string(p.Canonical()); !strings.HasPrefix(text, `{"version":2,`) || p.Hash() == somePolicy().Hash() {
			t.Errorf("%s: %s", name, text)
		}
		back, err := ParsePolicy(p.Canonical())
		if err != nil || back.Hash() != p.Hash() {
			t.Errorf("%s: %v", name, err)
		}
	}
	text := string(wide().Canonical())
	if !strings.Contains(text, `"platform":{"smt":"required","tsme":"refused","ecc":"any","rapl_disabled":"any","ciphertext_hiding":"any","tio":"any"},`+
		`"require_mitigations":"0x8000000000000003","vlek_provider":"cloud-one","tdx":{`) {
		t.Errorf("version 2 is written as %s", text)
	}
}

// TestParsePolicy admits the canonical form and white space, and nothing else.
func TestParsePolicy(t *testing.T) {
	for _, p := range []Policy{somePolicy(), wide(), {}} {
		var indented bytes.Buffer
		if err := json.Indent(&indented, p.Canonical(), "", "  "); err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{p.Canonical(), indented.Bytes()} {
			back, err := ParsePolicy(text)
			if err != nil || back.Hash() != p.Hash() {
				t.Errorf("%v\n%s", err, text)
			}
		}
	}
	one, two := string(somePolicy().Canonical()), string(wide().Canonical())
	for name, text := range map[string]string{
		"nothing":               "",
		"an array":              "[]",
		"two documents":         one + one,
		"a double member":       strings.Replace(one, `{"version":1`, `{"version":1,"version":1`, 1),
		"another order":         strings.Replace(one, `"version":1,"products":["Genoa","Milan"]`, `"products":["Genoa","Milan"],"version":1`, 1),
		"an unsorted list":      strings.Replace(one, `["Genoa","Milan"]`, `["Milan","Genoa"]`, 1),
		"a double entry":        strings.Replace(one, `["Genoa","Milan"]`, `["Genoa","Genoa","Milan"]`, 1),
		"upper case":            strings.Replace(one, `0x30000`, `0X30000`, 1),
		"a leading zero":        strings.Replace(one, `0x30000`, `0x030000`, 1),
		"a missing member":      strings.Replace(one, `"simulated":false`, ``, 1),
		"null for a list":       strings.Replace(one, `["Genoa","Milan"]`, `null`, 1),
		"a member of version 2": strings.Replace(one, `"simulated":false`, `"simulated":false,"vlek_provider":"x"`, 1),
		"version 2 for nothing": strings.Replace(one, `"version":1`, `"version":2`, 1),
		"an unknown rule":       strings.Replace(two, `"smt":"required"`, `"smt":"wanted"`, 1),
		"an unknown property":   strings.Replace(two, `"smt"`, `"smd"`, 1),
		"a provider with space": strings.Replace(two, `cloud-one`, `cloud one`, 1),
		"a large number":        strings.Replace(two, `0x8000000000000003`, `0x18000000000000003`, 1),
		"too much":              strings.Repeat(" ", maxPolicyBytes) + one,
	} {
		if _, err := ParsePolicy([]byte(text)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// TestNarrows changes one thing at a time, in a policy that equals its parent.
func TestNarrows(t *testing.T) {
	parent := wide()
	if err := parent.Narrows(parent); err != nil {
		t.Fatalf("a policy does not narrow itself: %v", err)
	}
	if err := (Policy{Simulated: parent.Simulated}).Narrows(parent); err != nil {
		t.Errorf("a policy that admits nothing: %v", err)
	}
	for name, row := range map[string]struct {
		change func(*Policy)
		ok     bool
	}{
		"fewer products":      {func(p *Policy) { p.Products = p.Products[:1] }, true},
		"another product":     {func(p *Policy) { p.Products = append(p.Products, Turin); p.MinTCB[Turin] = TCB{} }, false},
		"product, no floor":   {func(p *Policy) { p.Products = append(p.Products, Turin) }, true},
		"fewer chips":         {func(p *Policy) { p.Chips = p.Chips[:1] }, true},
		"another chip":        {func(p *Policy) { p.Chips = append(p.Chips, bytes.Repeat([]byte{7}, 64)) }, false},
		"another measurement": {func(p *Policy) { p.Measurements = append(p.Measurements, bytes.Repeat([]byte{7}, 48)) }, false},
		"higher floor":        {func(p *Policy) { f := p.MinTCB[Genoa]; f.SNP++; p.MinTCB[Genoa] = f }, true},
		"lower floor":         {func(p *Policy) { f := p.MinTCB[Genoa]; f.SNP--; p.MinTCB[Genoa] = f }, false},
		"guest policy":        {func(p *Policy) { p.RequirePolicy++ }, false},
		"alias check":         {func(p *Policy) { p.RequireAliasCheck = true }, true},
		"more mitigations":    {func(p *Policy) { p.RequireMitigations |= 4 }, true},
		"fewer mitigations":   {func(p *Policy) { p.RequireMitigations = 1 }, false},
		"another provider":    {func(p *Policy) { p.VLEKProvider = "cloud-two" }, false},
		"no provider":         {func(p *Policy) { p.VLEKProvider = "" }, false},
		"revocation lists":    {func(p *Policy) { p.Revocation = RevocationRequired }, true},
		"one rule more":       {func(p *Policy) { p.Platform.ECC = Required }, true},
		"one rule fewer":      {func(p *Policy) { p.Platform.SMT = Any }, false},
		"the opposite rule":   {func(p *Policy) { p.Platform.SMT = Barred }, false},
		"simulated":           {func(p *Policy) { p.Simulated = true }, false},
		"no tdx":              {func(p *Policy) { p.TDX = nil }, true},
	} {
		p := wide()
		p.MinTCB = maps.Clone(p.MinTCB)
		row.change(&p)
		if err := p.Narrows(parent); (err == nil) != row.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	strict := wide()
	strict.RequireAliasCheck, strict.Revocation = true, RevocationRequired
	if wide().Narrows(strict) == nil {
		t.Error("a policy without alias check and lists narrows one with them")
	}
	without := wide()
	without.TDX = nil
	if wide().Narrows(without) == nil {
		t.Error("a policy with a part for TDX narrows one without")
	}
	without.TDX, parent.MinTCB = wide().TDX, nil
	if wide().Narrows(parent) == nil {
		t.Error("a policy with floors narrows one that admits no product")
	}
}

func TestTCBLayouts(t *testing.T) {
	for line, reserved := range map[string][2]int{Milan: {16, 48}, Genoa: {16, 48}, Turin: {32, 56}} {
		for bit := range 64 {
			if _, ok := tcbFrom(1<<bit, line); ok == (bit >= reserved[0] && bit < reserved[1]) {
				t.Errorf("%s, bit %d of a TCB: %t", line, bit, ok)
			}
		}
	}
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
