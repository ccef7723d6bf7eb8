package floor

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32))

func keys() []ed25519.PublicKey { return []ed25519.PublicKey{key.Public().(ed25519.PublicKey)} }

const good = `{"version":1,"issued":"2026-11-01T00:00:00Z","advisories":[
	{"id":"AMD-SB-3019","date":"2025-03-05","products":[{"product":"Milan","min_tcb":{"snp":24,"microcode":219}},{"product":"Genoa","min_tcb":{"microcode":80}}]},
	{"id":"AMD-SB-3020","date":"2025-10-13","products":[{"product":"Milan","min_tcb":{"bootloader":5,"snp":20}}]},
	{"id":"INTEL-SA-01397","date":"2026-02-10","products":[{"product":"TDX","min_tcb_evaluation":19}]}]}`

func TestFloorsAreJoined(t *testing.T) {
	body, err := Sign([]byte(good), key)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Verify(body, keys())
	if err != nil {
		t.Fatal(err)
	}
	got, because := f.MinTCB("Milan", attest.TCB{TEE: 3, SNP: 22})
	if want := (attest.TCB{Bootloader: 5, TEE: 3, SNP: 24, Microcode: 219}); got != want || !slices.Equal(because, []string{"AMD-SB-3019", "AMD-SB-3020"}) {
		t.Errorf("%+v because of %v", got, because)
	}
	high := attest.TCB{FMC: 255, Bootloader: 255, TEE: 255, SNP: 255, Microcode: 255}
	if got, because := f.MinTCB("Milan", high); got != high || because != nil {
		t.Errorf("a floor was lowered: %+v because of %v", got, because)
	}
	if got, because := f.MinTCB("Turin", attest.TCB{SNP: 1}); got != (attest.TCB{SNP: 1}) || because != nil {
		t.Errorf("a line that the file does not name: %+v", got)
	}
	if n, because := f.MinEvaluation(17); n != 19 || len(because) != 1 {
		t.Errorf("evaluation number %d because of %v", n, because)
	}
	if n, because := f.MinEvaluation(20); n != 20 || because != nil {
		t.Errorf("a floor was lowered: %d because of %v", n, because)
	}
}

func TestOnlySignedFilesAreBelieved(t *testing.T) {
	body, err := Sign([]byte(good), key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, 32))
	foreign, err := Sign([]byte(good), stranger)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Sign([]byte(strings.Replace(good, "219", "200", 1)), key)
	if err != nil {
		t.Fatal(err)
	}
	// The signature of one file under the payload of another.
	cut := []byte(`"signature":`)
	mixed := append(bytes.Clone(body[:bytes.Index(body, cut)]), other[bytes.Index(other, cut):]...)
	for name, file := range map[string][]byte{
		"another key": foreign, "another payload": mixed, "trailing": append(bytes.Clone(body), '{'), "empty": nil, "huge": bytes.Repeat([]byte(" "), MaxSize+1),
	} {
		if _, err := Verify(file, keys()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Verify(body, nil); !errors.Is(err, ErrInvalid) {
		t.Error("without keys everything is believed")
	}
}

func TestMalformedPayloads(t *testing.T) {
	for name, change := range map[string][2]string{
		"version":        {`"version":1`, `"version":2`},
		"no date":        {`"issued":"2026-11-01T00:00:00Z",`, ``},
		"unknown member": {`"version":1`, `"version":1,"any":true`},
		"foreign id":     {"AMD-SB-3020", "CVE-2025-1"},
		"id twice":       {"AMD-SB-3020", "AMD-SB-3019"},
		"day":            {"2025-10-13", "13.10.2025"},
		"level of TDX":   {`"min_tcb_evaluation":19`, `"min_tcb":{}`},
		"no level":       {`"min_tcb":{"microcode":80}`, `"min_tcb_evaluation":1`},
		"product":        {`"product":"Genoa"`, `"product":"../x"`},
	} {
		if _, err := Sign([]byte(strings.Replace(good, change[0], change[1], 1)), key); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A floor for what no evidence comes from would raise nothing, and nobody would see it.
func TestWhatCannotBeJudgedIsNoFloor(t *testing.T) {
	for name, row := range map[string]struct{ old, new, says string }{
		"a processor of another line": {`"product":"Genoa"`, `"product":"Bergamo"`, "Milan, Genoa, Turin (Genoa for Bergamo and Siena, too) or TDX"},
		"a line that is none":         {`"product":"Genoa"`, `"product":"Venice"`, "Milan, Genoa, Turin"},
		"no level":                    {`{"microcode":80}`, `{"microcode":0}`, "asks for nothing"},
		"a level of Turin":            {`{"microcode":80}`, `{"fmc":1,"microcode":80}`, "only Turin has"},
	} {
		payload := []byte(strings.Replace(good, row.old, row.new, 1))
		if _, err := Sign(payload, key); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s is signed: %v", name, err)
		}
		body, err := json.Marshal(envelope{Payload: payload, Key: KeyID(key.Public().(ed25519.PublicKey)), Signature: ed25519.Sign(key, append([]byte(label), payload...))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(body, keys()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s is believed: %v", name, err)
		}
		// One that came into force before this was asked goes on to hold for what it does name.
		f, err := ReadUnverified(body)
		if n, _ := f.MinEvaluation(0); err != nil || n != 19 {
			t.Errorf("%s cannot be read any more: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	body, err := Sign([]byte(good), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Verify(data, keys())
		if err == nil {
			_, _ = file.MinTCB("Milan", attest.TCB{})
		}
		_, _ = ReadUnverified(data)
	})
}
