//go:build devtee

package softpsp

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// rig is one simulated machine with what judges it. Everything in it is made here:
// of Turin, VLEKs and revocation lists no genuine sample with a report is public.
type rig struct {
	psp    *PSP
	col    attest.Collateral
	policy attest.Policy
}

func machineOf(t *testing.T, cfg Config) *rig {
	t.Helper()
	cfg.Now = at
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.AMDRoots().WithSimulated(p.ProductLine(), p.Roots())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{psp: p, col: attest.Collateral{Roots: roots}, policy: policy(p, [48]byte{1}, [64]byte{2})}
	r.policy.VLEKProvider = cfg.Provider
	return r
}

func (r *rig) sign(t *testing.T, alter func([]byte)) attest.Evidence {
	t.Helper()
	report, err := r.psp.Sign(Report{Measurement: [48]byte{1}, ReportData: [64]byte{2}, ReportID: [32]byte{3}, Alter: alter})
	if err != nil {
		t.Fatal(err)
	}
	return attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: r.psp.Certificates()}
}

func (r *rig) code(t *testing.T, alter func([]byte), change func(*attest.Policy)) string {
	t.Helper()
	p := r.policy
	if change != nil {
		change(&p)
	}
	if _, err := attest.Verify(r.sign(t, alter), r.col, p, at); err != nil {
		return code(t, err)
	}
	return ""
}

// TestEveryLineVersionAndKey judges a good report of each product line, version and
// kind of key, and the same under the policy for the other kind of key.
func TestEveryLineVersionAndKey(t *testing.T) {
	for _, line := range []string{attest.Milan, attest.Genoa, attest.Turin} {
		for _, version := range []uint32{2, 3, 5} {
			for _, provider := range []string{"", "cloud-one"} {
				t.Run(fmt.Sprintf("%s v%d %s", line, version, provider), func(t *testing.T) {
					r := machineOf(t, Config{Line: line, Version: version, Provider: provider})
					want := ""
					if line == attest.Turin && version == 2 {
						// Turin never wrote version 2, which names no processor.
						want = attest.CodeProduct
					}
					if got := r.code(t, nil, nil); got != want {
						t.Errorf("code %q, want %q", got, want)
					}
					if want != "" {
						return
					}
					other := map[string]string{"": "cloud-one", "cloud-one": ""}[provider]
					if got := r.code(t, nil, func(p *attest.Policy) { p.VLEKProvider = other }); got != attest.CodeKeyType {
						t.Errorf("under the policy of the other kind of key: %q", got)
					}
					if provider != "" {
						if got := r.code(t, nil, func(p *attest.Policy) { p.VLEKProvider = "cloud-two" }); got != attest.CodeKeyType {
							t.Errorf("under the policy of another provider: %q", got)
						}
					}
					if got := r.code(t, nil, func(p *attest.Policy) { p.Simulated = false }); got != attest.CodeChain {
						t.Errorf("taken for genuine hardware: %q", got)
					}
				})
			}
		}
	}
}

// TestTurinRules are Turin's own: FMC and the other levels at their places, eight
// bytes of chip id and zeros behind them. The report is the soft PSP's.
func TestTurinRules(t *testing.T) {
	r := machineOf(t, Config{Line: attest.Turin, Version: 5, TCB: attest.TCB{FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 9}})
	ev := r.sign(t, nil)
	res, err := attest.Verify(ev, r.col, r.policy, at)
	if err != nil {
		t.Fatal(err)
	}
	if res.Reported != r.psp.TCB() || res.Product != attest.Turin || res.CurrentMitigations != 0xb {
		t.Errorf("result %+v", res)
	}
	registered := r.col
	chip := r.psp.ChipID()
	registered.VCEKs = map[string][][]byte{attest.ChipKey(chip[:]): {r.psp.VCEK()}}
	bare := ev
	bare.Certificates = nil
	if _, err := attest.Verify(bare, registered, r.policy, at); err != nil {
		t.Errorf("with the certificate registered: %v", err)
	}
	floor := func(change func(*attest.TCB)) func(*attest.Policy) {
		return func(p *attest.Policy) {
			tcb := r.psp.TCB()
			change(&tcb)
			p.MinTCB = map[string]attest.TCB{attest.Turin: tcb}
		}
	}
	for name, row := range map[string]struct {
		alter  func([]byte)
		change func(*attest.Policy)
		code   string
	}{
		"FMC below the floor":         {nil, floor(func(f *attest.TCB) { f.FMC++ }), attest.CodeTCB},
		"boot loader below the floor": {nil, floor(func(f *attest.TCB) { f.Bootloader++ }), attest.CodeTCB},
		"TEE below the floor":         {nil, floor(func(f *attest.TCB) { f.TEE++ }), attest.CodeTCB},
		"SNP below the floor":         {nil, floor(func(f *attest.TCB) { f.SNP++ }), attest.CodeTCB},
		"microcode below the floor":   {nil, floor(func(f *attest.TCB) { f.Microcode++ }), attest.CodeTCB},
		"only another line's floor":   {nil, func(p *attest.Policy) { p.MinTCB = map[string]attest.TCB{attest.Genoa: {}} }, attest.CodeTCB},
		"line not allowed":            {nil, func(p *attest.Policy) { p.Products = []string{attest.Genoa} }, attest.CodeProduct},
		"reported FMC":                {func(b []byte) { b[0x180]++ }, nil, attest.CodeTCB},
		"committed FMC below":         {func(b []byte) { b[0x1e0]-- }, nil, attest.CodeTCB},
		"launch SNP below":            {func(b []byte) { b[0x1f0+3]-- }, nil, attest.CodeTCB},
		"committed above current":     {func(b []byte) { b[0x038]-- }, nil, attest.CodeTCB},
		"Genoa's layout":              {func(b []byte) { copy(b[0x180:], []byte{10, 0, 0, 0, 0, 0, 27, 27}) }, nil, attest.CodeTCB},
		"reserved TCB byte":           {func(b []byte) { b[0x180+5] = 1 }, nil, attest.CodeTCB},
		"a longer chip id":            {func(b []byte) { b[0x1a0+8] = 1 }, nil, attest.CodeChip},
		"another chip":                {func(b []byte) { b[0x1a0] ^= 1 }, nil, attest.CodeChip},
		"not a registered chip":       {nil, func(p *attest.Policy) { p.Chips = [][]byte{make([]byte, 64)} }, attest.CodeChip},
		"Genoa's processor":           {func(b []byte) { copy(b[0x188:], []byte{0x19, 0x11}) }, nil, attest.CodeChain},
		"Venice or later":             {func(b []byte) { b[0x189] = 0x12 }, nil, attest.CodeProduct},
	} {
		if got := r.code(t, row.alter, row.change); got != row.code {
			t.Errorf("%s: %q, want %q", name, got, row.code)
		}
	}
}

// TestSwappedTCBLayouts shows that no TCB becomes good by being read in the layout
// of the other product line: what Genoa's floor refuses is not admitted by calling
// the processor Turin's, nor the other way round.
func TestSwappedTCBLayouts(t *testing.T) {
	for _, lines := range [][2]string{{attest.Genoa, attest.Turin}, {attest.Turin, attest.Genoa}} {
		r := machineOf(t, Config{Line: lines[0]})
		cpu := map[string][]byte{attest.Genoa: {0x19, 0x11}, attest.Turin: {0x1a, 0x02}}[lines[1]]
		got := r.code(t, func(b []byte) { copy(b[0x188:], cpu) }, func(p *attest.Policy) {
			p.Products = lines[:]
			p.MinTCB = map[string]attest.TCB{attest.Genoa: {}, attest.Turin: {}}
		})
		if got == "" {
			t.Errorf("%s read as %s is accepted", lines[0], lines[1])
		}
	}
}

// TestPlatformRules judges each bit of PLATFORM_INFO both ways, and the vectors of
// mitigations.
func TestPlatformRules(t *testing.T) {
	r := machineOf(t, Config{Version: 5})
	rules := map[string]struct {
		bit  uint
		rule func(*attest.PlatformRules) *attest.Rule
	}{
		"SMT":               {0, func(p *attest.PlatformRules) *attest.Rule { return &p.SMT }},
		"TSME":              {1, func(p *attest.PlatformRules) *attest.Rule { return &p.TSME }},
		"ECC":               {2, func(p *attest.PlatformRules) *attest.Rule { return &p.ECC }},
		"RAPL disabled":     {3, func(p *attest.PlatformRules) *attest.Rule { return &p.RAPLDisabled }},
		"ciphertext hiding": {4, func(p *attest.PlatformRules) *attest.Rule { return &p.CiphertextHiding }},
		"TIO":               {7, func(p *attest.PlatformRules) *attest.Rule { return &p.TIO }},
	}
	for name, row := range rules {
		for _, set := range []bool{true, false} {
			alter := func(b []byte) {
				b[0x040] &^= 1 << row.bit
				if set {
					b[0x040] |= 1 << row.bit
				}
			}
			for rule, good := range map[attest.Rule]bool{attest.Any: true, attest.Required: set, attest.Barred: !set, "perhaps": false} {
				got := r.code(t, alter, func(p *attest.Policy) { *row.rule(&p.Platform) = rule })
				if want := map[bool]string{true: "", false: attest.CodePlatform}[good]; got != want {
					t.Errorf("%s set %t, rule %q: %q, want %q", name, set, rule, got, want)
				}
			}
		}
	}
	needs := func(bits uint64) func(*attest.Policy) {
		return func(p *attest.Policy) { p.RequireMitigations = bits }
	}
	for name, row := range map[string]struct {
		alter func([]byte)
		bits  uint64
		code  string
	}{
		"all":               {nil, 0xb, ""},
		"one of them":       {nil, 0x2, ""},
		"one that is not":   {nil, 0x4, attest.CodePlatform},
		"not at launch":     {func(b []byte) { b[0x1f8] = 0x9 }, 0xb, attest.CodePlatform},
		"not any more":      {func(b []byte) { b[0x200] = 0x9 }, 0xb, attest.CodePlatform},
		"the highest":       {func(b []byte) { b[0x1ff], b[0x207] = 0x80, 0x80 }, 1 << 63, ""},
		"nothing asked for": {func(b []byte) { clear(b[0x1f8:0x208]) }, 0, ""},
	} {
		if got := r.code(t, row.alter, needs(row.bits)); got != row.code {
			t.Errorf("mitigations, %s: %q, want %q", name, got, row.code)
		}
	}
	old := machineOf(t, Config{Version: 3})
	if got := old.code(t, nil, needs(1)); got != attest.CodePlatform {
		t.Errorf("a report that cannot tell its mitigations: %q", got)
	}
}

// TestProvidersKey is what a VLEK may and may not stand for.
func TestProvidersKey(t *testing.T) {
	r := machineOf(t, Config{Provider: "cloud-one"})
	ev := r.sign(t, func(b []byte) { b[0x048] |= 2 }) // the chip's own key is masked, as hosts with a VLEK have it
	res, err := attest.Verify(ev, r.col, r.policy, at)
	if err != nil {
		t.Fatal(err)
	}
	if res.VLEKProvider != "cloud-one" {
		t.Errorf("provider %q", res.VLEKProvider)
	}
	held := r.col
	held.VLEKs = [][]byte{r.psp.VCEK()}
	bare := ev
	bare.Certificates = nil
	if _, err := attest.Verify(bare, held, r.policy, at); err != nil {
		t.Errorf("with the provider's certificate at hand: %v", err)
	}
	for name, row := range map[string]struct {
		alter func([]byte)
		code  string
	}{
		"chip id hidden":           {func(b []byte) { clear(b[0x1a0:0x1e0]) }, attest.CodeChip},
		"not a registered chip":    {func(b []byte) { b[0x1a0] ^= 1 }, attest.CodeChip},
		"says the chip signed":     {func(b []byte) { b[0x048] = 0 }, attest.CodeKeyType},
		"another TCB":              {func(b []byte) { b[0x180]++ }, attest.CodeTCB},
		"another line's processor": {func(b []byte) { b[0x189] = 0x01 }, attest.CodeChain},
	} {
		if got := r.code(t, row.alter, nil); got != row.code {
			t.Errorf("%s: %q, want %q", name, got, row.code)
		}
	}
	// Not even a policy that registers the hidden id can admit it.
	hide := func(b []byte) { clear(b[0x1a0:0x1e0]) }
	if got := r.code(t, hide, func(p *attest.Policy) { p.Chips = [][]byte{make([]byte, 64)} }); got != attest.CodeChip {
		t.Errorf("a hidden chip that is registered: %q", got)
	}
	// A VCEK of the same machine does not stand in for its VLEK, nor the reverse.
	chip := machineOf(t, Config{})
	if _, err := attest.Verify(ev, chip.col, r.policy, at); code(t, err) != attest.CodeChain {
		t.Errorf("under roots that have no key for VLEKs: %v", err)
	}
	ev.Certificates = chip.psp.Certificates()
	if _, err := attest.Verify(ev, r.col, r.policy, at); code(t, err) != attest.CodeCollateral {
		t.Errorf("with a VCEK beside a VLEK's signature: %v", err)
	}
}

// TestRevocationLists judges lists of the simulated root, fresh and otherwise.
func TestRevocationLists(t *testing.T) {
	r := machineOf(t, Config{})
	ev := r.sign(t, nil)
	from, to := at.AddDate(0, 0, -10), at.AddDate(0, 0, 10)
	for name, row := range map[string]struct {
		from, to time.Time
		revoked  []*big.Int
		rule     attest.Revocation
		code     string
	}{
		"fresh":                   {from, to, nil, attest.RevocationRequired, ""},
		"expired":                 {from, at, nil, attest.RevocationRequired, attest.CodeCollateral},
		"from the future":         {at.Add(time.Second), to, nil, attest.RevocationRequired, attest.CodeCollateral},
		"expired, not asked for":  {from, at, nil, attest.RevocationNotJudged, ""},
		"the ASK revoked":         {from, to, []*big.Int{r.psp.Intermediate().SerialNumber}, attest.RevocationRequired, attest.CodeRevoked},
		"revoked, then expired":   {from, at, []*big.Int{r.psp.Intermediate().SerialNumber}, attest.RevocationNotJudged, attest.CodeRevoked},
		"the leaf revoked":        {from, to, []*big.Int{r.psp.Leaf().SerialNumber}, attest.RevocationNotJudged, attest.CodeRevoked},
		"somebody else's revoked": {from, to, []*big.Int{big.NewInt(42)}, attest.RevocationRequired, ""},
	} {
		der, err := r.psp.RevocationList(row.from, row.to, row.revoked...)
		if err != nil {
			t.Fatal(err)
		}
		col := r.col
		if col.CRLs, err = attest.ParseCRLs(col.Roots, der); err != nil {
			t.Fatal(err)
		}
		pol := r.policy
		pol.Revocation = row.rule
		got := ""
		if _, err := attest.Verify(ev, col, pol, at); err != nil {
			got = code(t, err)
		}
		if got != row.code {
			t.Errorf("%s: %q, want %q", name, got, row.code)
		}
	}
}
