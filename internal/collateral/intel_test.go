//go:build devtee

package collateral

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
	"github.com/eosc-siesta/siestad/internal/lab/vendors"
)

// TestIntel fetches genuine objects of Intel's for a genuine quote, and refuses one without its chain.
func TestIntel(t *testing.T) {
	r := newRig(t)
	read := func(name string) []byte {
		data, err := os.ReadFile("../attest/testdata/tdx/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	chain := read("tcb-signing-chain.pem")
	const tcb, qe = "/tdx/certification/v4/tcb?fmspc=50806f000000", "/tdx/certification/v4/qe/identity"
	r.vendor.Put(tcb, read("tcbinfo-50806f000000.json"), nil)
	r.vendor.Put(qe, read("td-qe-identity.json"), chain)
	r.vendor.Put(vendors.RootCRLPath, read("root-ca-crl.der"), nil)
	ev := attest.Evidence{TEE: attest.TDX, Report: read("v4-quote-spr.dat")}
	if _, state, code := r.look(r.Service, ev); code != attest.CodeCollateral || state != Missing {
		t.Errorf("state %s, code %q", state, code)
	}
	r.turn()
	kinds := func() string {
		items, err := r.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, i := range items {
			all = append(all, i.Kind+" "+i.Key+" "+string(i.State))
		}
		return strings.Join(all, ", ")
	}
	if got, want := kinds(), "intel-qe-identity td-qe fresh, intel-root-crl root fresh"; got != want {
		t.Errorf("without the chain of the TCB info: %s, want %s", got, want)
	}
	r.vendor.Put(tcb, read("tcbinfo-50806f000000.json"), chain)
	r.pass(10 * time.Second)
	r.turn()
	if got := kinds(); !strings.Contains(got, "intel-tcbinfo 50806f000000 fresh") {
		t.Errorf("with its chain: %s", got)
	}
	if col, _, _ := r.look(r.Service, ev); col.TDX == nil {
		t.Error("nothing of Intel's is at hand")
	}
}

// TestSimulatedIntel fetches everything that the quote of a simulated trust domain rests on, keeps it over a restart and
// judges by it; without the simulated root none of it is believed.
func TestSimulatedIntel(t *testing.T) {
	platform, err := softtd.New(softtd.Config{Now: start})
	if err != nil {
		t.Fatal(err)
	}
	boot := softtd.Boot{MRTD: [48]byte{1}, Kernel: [48]byte{2}, Line: "siesta.gen=1", Initrd: [48]byte{3}}
	data := [64]byte{7}
	quote, log, err := platform.Launch(func() (softtd.Boot, error) { return boot, nil }).Quote(data)
	if err != nil {
		t.Fatal(err)
	}
	ev := attest.Evidence{TEE: attest.TDX, Report: quote, EventLog: log}
	simulated := func(c *Config) {
		if c.Roots, err = c.Roots.WithSimulatedIntel(platform.Root()); err != nil {
			t.Fatal(err)
		}
	}
	wanted := "intel-pck-crl platform fresh, intel-qe-identity td-qe fresh, intel-root-crl root fresh, intel-tcbinfo " + softtd.FMSPC + " fresh"
	for name, row := range map[string]struct {
		change []func(*Config)
		held   string
	}{"simulated": {[]func(*Config){simulated}, wanted}, "genuine": {nil, ""}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, row.change...)
			if err := r.vendor.PutPlatform(platform, start.Add(-time.Hour), start.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if _, _, code := r.look(r.Service, ev); code != attest.CodeCollateral {
				t.Errorf("before anything was fetched: %q", code)
			}
			r.turn()
			r.requests(4)
			items, err := r.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var held []string
			for _, i := range items {
				held = append(held, i.Kind+" "+i.Key+" "+string(i.State))
			}
			if got := strings.Join(held, ", "); got != row.held {
				t.Fatalf("held: %s\nwant: %s", got, row.held)
			}
			if row.held == "" {
				return
			}
			ppid, td := platform.PPID(), attest.NovaTDXPolicy()
			td.Platforms, td.MRTDs, td.XFAM = [][]byte{ppid[:]}, [][]byte{boot.MRTD[:]}, attest.MaskedBits{Mask: ^uint64(0), Value: softtd.XFAM}
			td.RTMRs, td.RequireEventLog = [4]attest.RTMRRule{{Any: true}, {Any: true}, {Any: true}, {Any: true}}, true
			for _, s := range []*Service{r.Service, r.open(row.change...)} { // the second began with an empty process
				col, state, code := r.look(s, ev)
				if code != "" || state != Fresh {
					t.Errorf("state %s, code %q", state, code)
				}
				if _, err := attest.Verify(ev, col, attest.Policy{ReportData: data, TDX: &td, Simulated: true}, start); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
