//go:build devtee

// Command conformance writes the conformance set: cases for any verifier of
// SEV-SNP reports and TDX quotes, each with its inputs by path and SHA-256, the
// time, the policy and the expected verdict. Real inputs are the committed
// evidence; the others are signed here, by simulated processors with roots of their
// own, and so differ from run to run. Named sets alone are written anew. It writes what the verifier says now:
// whoever runs it reads the difference before committing it.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	if err := run("conformance", os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(dir string, only []string) error {
	for name, set := range map[string]struct {
		cases  func(*writer) ([]testCase, error)
		made   string // the folder of its inputs
		origin string
	}{
		"snp-real": {cases: snpReal}, "tdx-real": {cases: tdxReal},
		"snp-made": {snpMade, "inputs", "made by internal/lab/softpsp"},
		"tdx-made": {tdxMade, "inputs-tdx", "made by internal/lab/softtd"},
	} {
		if len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		if set.made != "" {
			if err := errors.Join(os.RemoveAll(filepath.Join(dir, set.made)), os.MkdirAll(filepath.Join(dir, set.made), 0o755)); err != nil {
				return err
			}
		}
		list, err := set.cases(&writer{dir, set.made, set.origin})
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

// writer knows where inputs lie, and where those that are made here come from.
type writer struct{ dir, made, origin string }

const evidence = "../internal/attest/testdata/"

// real is a file of the committed evidence.
func (w *writer) real(kind, name string) (input, []byte, error) {
	data, err := os.ReadFile(filepath.Join(w.dir, evidence+name))
	return input{kind, evidence + name, sum(data), "public sample, see " + filepath.Dir(evidence+name) + "/ORIGIN"}, data, err
}

// keep writes an input that was made here.
func (w *writer) keep(kind, name string, data []byte) (input, error) {
	in := input{kind, w.made + "/" + name, sum(data), w.origin}
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
