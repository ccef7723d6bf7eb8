//go:build devtee

// Command conformance writes the conformance set: cases for any verifier of
// SEV-SNP reports and TDX quotes, each with its inputs by path and SHA-256, the
// time, the policy and the expected verdict. Real inputs are the committed
// evidence; the others are signed here, by a simulated secure processor with roots
// of its own, and so differ from run to run. It writes what the verifier says now:
// whoever runs it reads the difference before committing it.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

type input struct {
	Kind   string `json:"kind,omitempty"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Origin string `json:"origin"`
}

type patch struct {
	At  int    `json:"at"`
	Hex string `json:"hex"`
}

type testCase struct {
	ID           string          `json:"id"`
	About        string          `json:"about"`
	Attacks      []int           `json:"attacks,omitempty"`
	TEE          attest.TEE      `json:"tee"`
	Report       input           `json:"report"`
	Patch        []patch         `json:"patch,omitempty"`
	Length       int             `json:"length,omitempty"`
	Certificates *input          `json:"certificates,omitempty"`
	EventLog     *input          `json:"event_log,omitempty"`
	Roots        *input          `json:"roots,omitempty"`
	Collateral   []input         `json:"collateral,omitempty"`
	At           time.Time       `json:"at"`
	ReportData   string          `json:"report_data"`
	Policy       json.RawMessage `json:"policy"`
	Verdict      string          `json:"verdict"`
	Code         string          `json:"code,omitempty"`
}

func main() {
	if err := run("conformance"); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	made := filepath.Join(dir, "inputs")
	if err := os.RemoveAll(made); err != nil {
		return err
	}
	if err := os.MkdirAll(made, 0o755); err != nil {
		return err
	}
	w := &writer{dir: dir}
	for name, cases := range map[string]func(*writer) ([]testCase, error){
		"snp-real": snpReal, "snp-made": snpMade, "tdx-real": tdxReal,
	} {
		list, err := cases(w)
		if err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		data, err := json.MarshalIndent(map[string]any{"version": 1, "cases": list}, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writer knows where inputs lie.
type writer struct{ dir string }

const evidence = "../internal/attest/testdata/"

// real is a file of the committed evidence.
func (w *writer) real(kind, name string) (input, []byte, error) {
	data, err := os.ReadFile(filepath.Join(w.dir, evidence+name))
	return input{kind, evidence + name, sum(data), "public sample, see " + filepath.Dir(evidence+name) + "/ORIGIN"}, data, err
}

// keep writes an input that was made here.
func (w *writer) keep(kind, name string, data []byte) (input, error) {
	in := input{kind, "inputs/" + name, sum(data), "made by internal/lab/softpsp"}
	return in, os.WriteFile(filepath.Join(w.dir, in.File), data, 0o644)
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// close fills in what the verifier says.
func (c *testCase) close(ev attest.Evidence, col attest.Collateral, pol attest.Policy) {
	c.TEE, c.ReportData, c.Policy = ev.TEE, hex.EncodeToString(pol.ReportData[:]), pol.Canonical()
	d := attest.Judge(ev, col, pol, c.At)
	c.Verdict, c.Code = d.Outcome, d.Code
}

// apply is how a patch is meant: bytes at an offset, then the length.
func (c *testCase) apply(report []byte) ([]byte, error) {
	out := append([]byte(nil), report...)
	for _, p := range c.Patch {
		b, err := hex.DecodeString(p.Hex)
		if err != nil {
			return nil, err
		}
		copy(out[p.At:], b)
	}
	if c.Length > 0 {
		out = append(out, make([]byte, max(0, c.Length-len(out)))...)[:c.Length]
	}
	return out, nil
}
