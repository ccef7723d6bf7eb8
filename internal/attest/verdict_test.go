package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest/p384"
)

// TestRefusalSaysWhich: code, name and sentence are those of the first failure in the order of precedence, and what was
// read of the product goes with it.
func TestRefusalSaysWhich(t *testing.T) {
	s := newSoftSNP(t, Milan, 3, "")
	pol := s.policy()
	pol.Measurements, pol.Chips = [][]byte{make([]byte, 48), make([]byte, 48)}, nil
	_, r := judged(t, s.evidence(), s.collateral(), pol, s.now)
	if r.Code != CodeMeasurement || r.Check != "launch measurement" || r.Product != Milan ||
		r.Detail != "the guest was launched from other firmware, kernel, initrd, command line or processors" ||
		r.Error() != "evidence refused (measurement): launch measurement: "+r.Detail {
		t.Errorf("%+v", r)
	}
	if c := r.Checks[checkMeasurement]; c.Expected != "one of 2" || c.Got != strings.Repeat("3e", 48) || c.Advice != snpTable[checkMeasurement].Advice {
		t.Errorf("%+v", c)
	}
	if c := r.Checks[checkChip]; c.Expected != "one of 0 registered" || c.Status != Failed {
		t.Errorf("%+v", c)
	}
	for i, c := range r.Checks {
		if c.Status == NotJudged && c.Got == "" {
			t.Errorf("check %d (%s) is not judged and says not why", i, c.Name)
		}
	}
	for tee, kind := range map[TEE]string{"": "no kind", "sample": "a sample", "SEV-SNP": "another spelling"} {
		_, r := judged(t, Evidence{TEE: tee, Report: s.report()}, s.collateral(), s.policy(), s.now)
		if r.Code != CodeFormat || r.Check != "kind of evidence" || r.Detail != "this kind of evidence is not known" || r.Checks[checkTEE].Expected != "sev-snp or tdx" || r.Product != "" {
			t.Errorf("%s: %+v", kind, r)
		}
	}
	for size, detail := range map[int]string{0: "0 bytes", 1183: "1183 bytes", 1185: "1185 bytes"} {
		_, r := judged(t, Evidence{TEE: SEVSNP, Report: make([]byte, size)}, s.collateral(), s.policy(), s.now)
		if c := r.Checks[checkLayout]; r.Check != "report layout" || c.Expected != "1184 bytes" || c.Got != detail || r.Detail != "the report has a wrong length" {
			t.Errorf("%d bytes: %+v", size, r)
		}
	}
	v := newVerdict(snpTable)
	if r := v.refusal(); r.Code != CodeFormat || r.Detail != "the verdict is incomplete" {
		t.Errorf("a refusal without a failure: %+v", r)
	}
	broken := Collateral{Roots: &Roots{lines: map[string][]*authority{Milan: {nil}}}}
	if _, r := judged(t, s.evidence(), broken, s.policy(), s.now); r.Check != "report layout" || r.Detail != "the evidence broke the reader" {
		t.Errorf("a panic: %+v", r)
	}
}

// TestDecided: whoever gives neither a result nor a refusal is refused.
func TestDecided(t *testing.T) {
	s := newSoftSNP(t, Genoa, 3, "")
	ev, col, pol := s.evidence(), s.collateral(), s.policy()
	res, err := Verify(ev, col, pol, s.now)
	if err != nil {
		t.Fatal(err)
	}
	refusal := &Refusal{Code: CodeTCB, Check: "name", Detail: "words", Checks: []Check{{Name: "name"}}}
	for name, c := range map[string]struct {
		res                          *Result
		err                          error
		outcome, code, check, detail string
		checks                       int
		simulated                    bool
	}{
		"accepted":                   {res, nil, Accepted, "", "", "", len(snpTable), true},
		"refused":                    {nil, refusal, Refused, CodeTCB, "name", "words", 1, false},
		"refused, wrapped":           {nil, fmt.Errorf("judging: %w", refusal), Refused, CodeTCB, "name", "words", 1, false},
		"refused, and a result":      {res, refusal, Refused, CodeTCB, "name", "words", 1, false},
		"neither":                    {nil, nil, Refused, CodeFormat, "", "no verdict was given", 0, false},
		"another error":              {nil, errors.New("disk"), Refused, CodeFormat, "", "no verdict was given", 0, false},
		"another error and a result": {res, errors.New("disk"), Refused, CodeFormat, "", "no verdict was given", 0, false},
	} {
		d := Decided(ev, col, pol, s.now, c.res, c.err)
		if d.Outcome != c.outcome || d.Code != c.code || d.Check != c.check || d.Detail != c.detail || len(d.Checks) != c.checks || d.Simulated != c.simulated {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// The evidence's name is a hash over its parts, each after its length.
	text := []byte("\x00\x00\x00\x00\x00\x00\x00\x19siesta/stored-evidence/v1\x00\x00\x00\x00\x00\x00\x00\x07sev-snp\x00\x00\x00\x00\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01c\x00\x00\x00\x00\x00\x00\x00\x00")
	if got := (Evidence{TEE: SEVSNP, Report: []byte("ab"), Certificates: []byte("c")}).Digest(); got != sha256.Sum256(text) {
		t.Errorf("digest %s", got)
	}
	b := NewBundle(ev, col, pol, s.now)
	if _, err := b.ReplayUnder(col.Roots); err != nil {
		t.Error(err)
	}
	noise := b
	noise.Collateral = []Object{{KindVCEK, []byte{1}}}
	if d, err := noise.ReplayUnder(col.Roots); err == nil || !strings.Contains(err.Error(), "reading leaf") || d.Outcome != "" {
		t.Errorf("collateral that cannot be read: %+v, %v", d, err)
	}
	data, err := json.Marshal(b)
	if err != nil || !strings.HasPrefix(string(data), `{"version":1,`) {
		t.Errorf("%.30s: %v", data, err)
	}
	for name, bad := range map[string]string{
		"a policy that cannot be read": strings.Replace(string(data), `"revocation":"not-judged"`, `"revocation":"never"`, 1),
		"two documents":                string(data) + "{}",
		"report data of 63 bytes":      strings.Replace(string(data), `"report_data":"2tra`, `"report_data":"`, 1),
	} {
		if string(data) == bad {
			t.Fatalf("%s: the change changes nothing", name)
		}
		back := Bundle{At: s.now}
		if err := back.UnmarshalJSON([]byte(bad)); err == nil || !back.At.Equal(s.now) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRootsHaveAName: two sets of roots that are not the same have not the same name, so that no proof under one holds
// under the other.
func TestRootsHaveAName(t *testing.T) {
	s, other := newSoftSNP(t, Genoa, 3, ""), newSoftSNP(t, Genoa, 3, "")
	with := func(change func(*authority)) *authority {
		a := *s.by
		change(&a)
		return &a
	}
	seen := map[[32]byte]string{}
	for name, as := range map[string][]*authority{
		"none": {}, "one": {s.by}, "another": {other.by}, "both": {s.by, other.by}, "the other way round": {other.by, s.by},
		"another line":     {with(func(a *authority) { a.line = Milan })},
		"genuine":          {with(func(a *authority) { a.simulated = false })},
		"another ASK":      {with(func(a *authority) { a.ask = other.by.ask })},
		"no key for VLEKs": {with(func(a *authority) { a.asvk = nil })},
	} {
		id := newRoots(as).id
		if seen[id] != "" {
			t.Errorf("%s and %s have one name", name, seen[id])
		}
		seen[id] = name
	}
	if newRoots([]*authority{s.by}).id != newRoots([]*authority{with(func(*authority) {})}).id {
		t.Error("the same roots have two names")
	}
}

// TestChainsAreReadStrictly: of AMD's chain each block is a certificate, under the root it comes with.
func TestChainsAreReadStrictly(t *testing.T) {
	s, other, vlek := newSoftSNP(t, Genoa, 3, ""), newSoftSNP(t, Genoa, 3, ""), newSoftSNP(t, Genoa, 3, "cloud-one")
	encode := func(certs ...*x509.Certificate) []byte {
		var out []byte
		for _, c := range certs {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return out
	}
	as := func(kind string, c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: c.Raw})
	}
	roots := newRoots([]*authority{s.by})
	for name, c := range map[string]struct {
		bundle      []byte
		makes, ours bool // an authority; one of the roots
	}{
		"all three":                        {encode(s.by.ask, s.by.ark, s.by.asvk), true, true},
		"without a key for VLEKs":          {encode(s.by.ask, s.by.ark), true, true},
		"text behind":                      {append(encode(s.by.ask, s.by.ark), "text"...), true, true},
		"another's key for VLEKs":          {encode(s.by.ask, s.by.ark, vlek.by.asvk), false, false},
		"another's ASK":                    {encode(other.by.ask, s.by.ark), false, false},
		"another's":                        {encode(other.by.ask, other.by.ark), true, false},
		"ASK under another kind of block":  {append(as("TRUSTED CERTIFICATE", s.by.ask), encode(s.by.ark)...), false, true},
		"a key in between":                 {append(encode(s.by.ask, s.by.ark), as("PUBLIC KEY", s.by.ark)...), false, true},
		"a certificate that is none":       {append(encode(s.by.ask, s.by.ark), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})...), false, false},
		"a leaf beside it, which is no CA": {append(encode(s.by.ask, s.by.ark), as("CERTIFICATE", &x509.Certificate{Raw: s.leaf})...), true, false},
	} {
		a, err := newAuthority(Genoa, c.bundle)
		if (err == nil) != c.makes || (a == nil) == c.makes {
			t.Errorf("%s makes an authority: %v", name, err)
		}
		if err := roots.known(c.bundle); (err == nil) != c.ours {
			t.Errorf("%s is of the roots: %v", name, err)
		}
	}
	if (*Roots)(nil).known(nil) == nil {
		t.Error("a chain is known without roots")
	}
	leaf, err := parseLeaf(s.leaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proveChain(leaf, nil, s.now); err == nil || err.Error() != "no root for this product line" {
		t.Errorf("%v", err)
	}
	provider, err := parseLeaf(vlek.leaf)
	if err != nil {
		t.Fatal(err)
	}
	bare := *s.by
	bare.asvk = nil
	if _, err := proveChain(provider, []*authority{&bare}, s.now); err == nil || err.Error() != "no root vouches for keys of this kind" {
		t.Errorf("%v", err)
	}
	// Of two roots of a line either may have signed; the first error is told.
	if ch, err := proveChain(leaf, []*authority{other.by, s.by}, s.now); err != nil || ch.by != s.by || ch.issuer != s.by.ask {
		t.Errorf("%v", err)
	}
	if _, err := proveChain(leaf, []*authority{other.by, &bare}, s.now.AddDate(0, 2, 0)); err == nil || !strings.HasPrefix(err.Error(), "SEV-Genoa: ") || strings.Contains(err.Error(), "expired") == strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("%v", err)
	}
}

// TestPolicyIsReadStrictly has what TestPolicyRoundTrip leaves out.
func TestPolicyIsReadStrictly(t *testing.T) {
	one, two := string(somePolicy().Canonical()), string(wide().Canonical())
	for name, text := range map[string]string{
		"a platform in version 1":     strings.Replace(one, `"simulated":false`, `"simulated":false,"platform":{}`, 1),
		"mitigations in version 1":    strings.Replace(one, `"simulated":false`, `"simulated":false,"require_mitigations":"0x0"`, 1),
		"a provider in version 1":     strings.Replace(one, `"simulated":false`, `"simulated":false,"vlek_provider":"x"`, 1),
		"tdx in version 1":            strings.Replace(one, `"simulated":false`, `"simulated":false,"tdx":{}`, 1),
		"version 0":                   strings.Replace(one, `"version":1`, `"version":0`, 1),
		"version 3":                   strings.Replace(two, `"version":2`, `"version":3`, 1),
		"half a byte behind a chip":   strings.Replace(one, strings.Repeat("01", 64), strings.Repeat("01", 64)+"0", 1),
		"half a byte behind a digest": strings.Replace(one, strings.Repeat("04", 48), strings.Repeat("04", 48)+"0", 1),
		"mitigations without 0x":      strings.Replace(two, `"0x8000000000000003"`, `"3"`, 1),
		"no mitigations in version 2": strings.Replace(two, `"require_mitigations":"0x8000000000000003",`, ``, 1),
		"a broken part for TDX":       strings.Replace(two, `"tdx":{`, `"tdx":{"x":1,`, 1),
	} {
		if text == one || text == two {
			t.Fatalf("%s: the change changes nothing", name)
		}
		p := Policy{VLEKProvider: "untouched"}
		if err := p.UnmarshalJSON([]byte(text)); err == nil || p.VLEKProvider != "untouched" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]uint64{"0x0": 0, "0x30000": 0x30000, "0xffffffffffffffff": 1<<64 - 1} {
		if got, err := unhexWord(text); err != nil || got != want {
			t.Errorf("%s: %x, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0x", "30000", "0x1ffffffffffffffff", "0x-1", "0xg"} {
		if got, err := unhexWord(text); err == nil || got != 0 && got != 1<<64-1 {
			t.Errorf("%q: %x, %v", text, got, err)
		}
	}
	required := somePolicy()
	required.Revocation = RevocationRequired
	p := Policy{Revocation: RevocationNotJudged}
	if err := p.UnmarshalJSON(required.Canonical()); err != nil || p.Revocation != RevocationRequired {
		t.Errorf("%v, revocation %q", err, p.Revocation)
	}
	for rule, ok := range map[Rule]bool{Any: true, Required: true, Barred: true, "any": false, "perhaps": false} {
		text, err := rule.MarshalText()
		var back Rule = "untouched"
		if (err == nil) != ok || ok && (back.UnmarshalText(text) != nil || back != rule) {
			t.Errorf("rule %q: %q, %v", rule, text, err)
		}
	}
	bad := somePolicy()
	bad.Platform.SMT = "perhaps"
	if _, err := bad.MarshalJSON(); err == nil {
		t.Error("a policy with an unknown rule has a text")
	}
	var back Rule
	if back.UnmarshalText([]byte("")) == nil {
		t.Error("an empty rule was read")
	}
}

// TestNarrowsOneByOne has a parent that asks for everything, and policies that ask for one thing less.
func TestNarrowsOneByOne(t *testing.T) {
	parent := wide()
	parent.RequireAliasCheck, parent.Revocation = true, RevocationRequired
	empty := func(change func(*Policy)) Policy {
		p := wide()
		p.MinTCB = maps.Clone(p.MinTCB)
		p.RequireAliasCheck, p.Revocation = true, RevocationRequired
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		p    Policy
		word string // of the error; empty is none
	}{
		"the same":                  {empty(func(*Policy) {}), ""},
		"no alias check":            {empty(func(p *Policy) { p.RequireAliasCheck = false }), "alias check"},
		"no revocation lists":       {empty(func(p *Policy) { p.Revocation = RevocationNotJudged }), "revocation lists"},
		"a line of its own":         {empty(func(p *Policy) { p.Products = []string{Turin}; p.MinTCB[Turin] = TCB{FMC: 255} }), "does not admit Turin"},
		"another line, no floor":    {empty(func(p *Policy) { p.Products = []string{Turin, Genoa} }), ""},
		"no product":                {empty(func(p *Policy) { p.Products, p.RequirePolicy = nil, 1 }), ""},
		"no chip":                   {empty(func(p *Policy) { p.Chips, p.RequirePolicy = nil, 1 }), ""},
		"no measurement":            {empty(func(p *Policy) { p.Measurements, p.RequirePolicy = nil, 1 }), ""},
		"one of each, wider":        {empty(func(p *Policy) { p.Products, p.Chips, p.RequirePolicy = p.Products[:1], p.Chips[:1], 1 }), "guest policy 0x1"},
		"nothing for SNP, some TDX": {empty(func(p *Policy) { p.Products = nil; td := *p.TDX; td.Quotes = []string{"other"}; p.TDX = &td }), "tdx: wider: a form"},
		"FMC below":                 {empty(func(p *Policy) { p.MinTCB[Genoa] = TCB{Bootloader: 9, SNP: 23, Microcode: 25} }), "is below the parent's"},
	} {
		err := c.p.Narrows(parent)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v, want a word about %q", name, err, c.word)
		}
	}
	known := empty(func(p *Policy) { p.MinTCB[Turin] = TCB{}; p.Products = append(p.Products, Turin) })
	if err := known.Narrows(empty(func(p *Policy) { p.Products = append(p.Products, Turin) })); err == nil || !strings.Contains(err.Error(), "has no TCB floor for Turin") {
		t.Errorf("a floor that the parent lacks: %v", err)
	}
}

// TestTablesOfChains: at the fifth use a chain gets its table, and the 257th chain gets none.
func TestTablesOfChains(t *testing.T) {
	s := newSoftSNP(t, Genoa, 3, "")
	leaf, err := parseLeaf(s.leaf)
	if err != nil {
		t.Fatal(err)
	}
	var c chainCache
	var chains []*chain
	for i := range 258 {
		ch := &chain{leaf: leaf}
		chains = append(chains, ch)
		for use := 1; use <= 7; use++ {
			if i > 0 && i < 255 {
				continue // these are counted only: a table costs time
			}
			got := c.table(ch) != nil
			if want := use >= 5 && i < 256; got != want {
				t.Fatalf("chain %d, use %d: table %t", i, use, got)
			}
			if n := c.tables.Load(); i == 0 && n != map[bool]int32{true: 1}[use >= 5] {
				t.Fatalf("use %d: %d tables counted", use, n)
			}
		}
		if i == 0 {
			c.tables.Store(255)
		}
	}
	if n := c.tables.Load(); n != 256 {
		t.Errorf("%d tables counted", n)
	}
	c.forget(chains[0])
	c.forget(chains[1])
	if n := c.tables.Load(); n != 255 {
		t.Errorf("%d tables counted after one was given back", n)
	}
}

// TestEvictedTables: with each chain that has to go, its table's place is given back, and no more go than must.
func TestEvictedTables(t *testing.T) {
	var c chainCache
	key := func(i int) chainKey { return chainKey{leaf: [32]byte{byte(i), byte(i >> 8)}} }
	for i := range 4096 {
		ch := &chain{}
		ch.hot.table.Store(&p384.Key{})
		c.put(key(i), ch)
	}
	c.tables.Store(4096)
	if len(c.chains) != 4096 {
		t.Fatalf("%d chains in memory", len(c.chains))
	}
	for i := range 3 {
		c.put(key(5000+i), &chain{})
	}
	with := int32(0)
	for _, ch := range c.chains {
		if ch.hot.table.Load() != nil {
			with++
		}
	}
	if n := c.tables.Load(); len(c.chains) != 4096 || n != with || n > 4095 {
		t.Errorf("%d chains in memory, %d tables counted, %d there", len(c.chains), n, with)
	}
}

// TestVCPUSignatures are those of QEMU's models, as its cpu.c gives family, model and stepping.
func TestVCPUSignatures(t *testing.T) {
	for name, want := range map[string]uint32{
		"EPYC": 0x800f12, "EPYC-v4": 0x800f12, "EPYC-Rome": 0x830f10, "EPYC-Milan-v2": 0xa00f11, "EPYC-Genoa": 0xa10f10, "EPYC-Turin": 0xb00f00,
	} {
		if got, ok := VCPUSig(name); !ok || got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
	for fms, want := range map[[3]uint32]uint32{{0xf, 0, 0}: 0xf00, {0x10, 0, 0}: 0x100f00, {6, 0x5e, 3}: 0x506e3, {0xe, 1, 2}: 0xe12} {
		if got := signature(fms[0], fms[1], fms[2]); got != want {
			t.Errorf("%x: %#x, want %#x", fms, got, want)
		}
	}
}
