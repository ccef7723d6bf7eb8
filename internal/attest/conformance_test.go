package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const conformance = "../../conformance"

type conformanceInput struct {
	Kind   string `json:"kind"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Origin string `json:"origin"`
}

func (in conformanceInput) read(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(conformance, filepath.FromSlash(in.File)))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != in.SHA256 {
		t.Fatalf("%s is not the file that the case was made for", in.File)
	}
	if in.Origin == "" {
		t.Fatalf("%s has no origin", in.File)
	}
	return data
}

type conformanceCase struct {
	ID      string           `json:"id"`
	About   string           `json:"about"`
	Attacks []int            `json:"attacks"`
	TEE     TEE              `json:"tee"`
	Report  conformanceInput `json:"report"`
	Patch   []struct {
		At  int    `json:"at"`
		Hex string `json:"hex"`
	} `json:"patch"`
	Length       int                `json:"length"`
	Certificates *conformanceInput  `json:"certificates"`
	EventLog     *conformanceInput  `json:"event_log"`
	Roots        *conformanceInput  `json:"roots"`
	Collateral   []conformanceInput `json:"collateral"`
	At           time.Time          `json:"at"`
	ReportData   string             `json:"report_data"`
	Policy       json.RawMessage    `json:"policy"`
	Verdict      string             `json:"verdict"`
	Code         string             `json:"code"`
}

// inputs reads the case as conformance/README.md describes it.
func (c conformanceCase) inputs(t *testing.T) (Evidence, Collateral, Policy) {
	t.Helper()
	ev := Evidence{TEE: c.TEE, Report: c.Report.read(t)}
	if c.Report.Kind == "kbs" {
		ev.Report, ev.Certificates = rebuild(t, ev.Report)
	}
	ev.Report = bytes.Clone(ev.Report)
	for _, p := range c.Patch {
		copy(ev.Report[p.At:], unhex(t, p.Hex))
	}
	if c.Length > 0 {
		ev.Report = append(ev.Report, make([]byte, max(0, c.Length-len(ev.Report)))...)[:c.Length]
	}
	if c.Certificates != nil {
		ev.Certificates = c.Certificates.read(t)
	}
	if c.EventLog != nil {
		ev.EventLog = c.EventLog.read(t)
	}
	roots := AMDRoots()
	switch {
	case c.Roots == nil:
	case c.Roots.Kind == "Intel":
		chain, err := readChain(c.Roots.read(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		own := *roots
		own.intel = newIntelRoot(chain[0], true)
		roots = &own
	default:
		a, err := newAuthority(c.Roots.Kind, c.Roots.read(t))
		if err != nil {
			t.Fatal(err)
		}
		a.simulated = true
		roots = newRoots([]*authority{a})
	}
	var objects []Object
	for _, in := range c.Collateral {
		if in.Kind != "dcap" {
			objects = append(objects, Object{in.Kind, in.read(t)})
			continue
		}
		list, err := TDXObjects(in.read(t))
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, list...)
	}
	col, err := NewCollateral(roots, objects)
	if err != nil {
		t.Fatal(err)
	}
	pol, err := ParsePolicy(c.Policy)
	if err != nil {
		t.Fatal(err)
	}
	pol.ReportData = [64]byte(unhex(t, c.ReportData))
	return ev, col, pol
}

// TestConformance runs the conformance set, and replays each of its decisions from
// a bundle of bytes alone.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob(conformance + "/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files of cases: %v", len(files), err)
	}
	seen, codes := map[string]bool{}, map[string]bool{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var set struct {
			Version int               `json:"version"`
			Cases   []conformanceCase `json:"cases"`
		}
		if err := strict(data, &set); err != nil || set.Version != 1 {
			t.Fatalf("%s: version %d: %v", name, set.Version, err)
		}
		for _, c := range set.Cases {
			if seen[c.ID] {
				t.Errorf("%s is there twice", c.ID)
			}
			seen[c.ID], codes[c.Code] = true, true
			t.Run(c.ID, func(t *testing.T) {
				ev, col, pol := c.inputs(t)
				b := NewBundle(ev, col, pol, c.At)
				if b.Decision.Outcome != c.Verdict || b.Decision.Code != c.Code {
					t.Fatalf("%s %s (%s: %s), want %s %s", b.Decision.Outcome, b.Decision.Code, b.Decision.Check, b.Decision.Detail, c.Verdict, c.Code)
				}
				for _, check := range b.Decision.Checks {
					if (check.Status == Failed) != (check.Advice != "") {
						t.Errorf("check %q is %s with advice %q", check.Name, check.Status, check.Advice)
					}
				}
				text, err := json.Marshal(b)
				if err != nil {
					t.Fatal(err)
				}
				var back Bundle
				if err := json.Unmarshal(text, &back); err != nil {
					t.Fatal(err)
				}
				if _, err := back.ReplayUnder(col.Roots); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if len(seen) < 110 || len(codes) < 20 {
		t.Errorf("%d cases with %d codes", len(seen), len(codes))
	}
}
