package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
)

// header returns n bytes that begin like an SEV-SNP report of a version.
func header(version uint32, n int) []byte {
	b := make([]byte, n)
	binary.LittleEndian.PutUint32(b, version)
	if n >= headerSize {
		binary.LittleEndian.PutUint32(b[0x34:], 1)
	}
	return b
}

func TestRecognise(t *testing.T) {
	quote := append([]byte{4, 0, 2, 0, 0x81, 0, 0, 0}, make([]byte, 700)...)
	const (
		report = `{"attestation_report":{},"cert_chain":null}`
		td     = `{"cc_eventlog":null,"quote":"BAAC"}`
		svsm   = `{"snp-report":"AA","certs-buf":null}`
		sample = `{"svn":"1","report_data":"AA=="}`
	)
	text := func(v string) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, row := range map[string]struct {
		data []byte
		want form
		body string
	}{
		"report":                      {header(5, reportSize), rawReport, ""},
		"report of an unknown kind":   {header(9, reportSize), rawReport, ""},
		"report cut":                  {header(3, reportSize-1), rawReport, ""},
		"report continued":            {header(2, 4000), rawReport, ""},
		"quote":                       {quote, rawQuote, ""},
		"quote of an unknown version": {append([]byte{9, 0}, quote[2:]...), rawQuote, ""},
		"quote of a report's length":  {append(quote, make([]byte, reportSize-len(quote))...), rawQuote, ""},
		"quote cut":                   {quote[:8], rawQuote, ""},
		"client report":               {[]byte(report), clientReport, report},
		"client quote after blanks":   {[]byte(" \n\t" + td), clientQuote, td},
		"client quote alone":          {[]byte(`{"quote":"AA"}`), clientQuote, `{"quote":"AA"}`},
		"SVSM":                        {[]byte(svsm), svsmReport, svsm},
		"sample":                      {[]byte(sample), sampleEvidence, sample},
		"primary":                     {[]byte(`{"primary_evidence":` + report + `,"additional_evidence":""}`), clientReport, report},
		"primary as a string":         {[]byte(`{"primary_evidence":` + text(td) + `}`), clientQuote, td},
		"whole request":               {[]byte(`{"init-data":null,"runtime-data":{"nonce":"x"},"tee-evidence":{"primary_evidence":` + td + `,"additional_evidence":""}}`), clientQuote, td},
		"request of protocol 0.1":     {[]byte(`{"tee-pubkey":{},"tee-evidence":` + svsm + `}`), svsmReport, svsm},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := recognise(row.data)
			if err != nil || got.form != row.want || got.devices {
				t.Fatalf("recognised %v (devices %v), %v", got.form, got.devices, err)
			}
			if row.body == "" {
				row.body = string(row.data)
			}
			if string(got.body) != row.body {
				t.Errorf("body %q", got.body)
			}
		})
	}
	got, err := recognise([]byte(`{"primary_evidence":` + td + `,"additional_evidence":"{\"nvidia\":{}}"}`))
	if err != nil || !got.devices {
		t.Errorf("further devices: %v, %v", got.devices, err)
	}
}

// TestNotEvidence: what cannot be judged is told apart, and says what to do.
func TestNotEvidence(t *testing.T) {
	for name, row := range map[string]struct {
		data string
		says string
	}{
		"empty":                {"", "is empty"},
		"blanks":               {" \n", "it is text"},
		"noise":                {"\xff\xfe\xfd", "neither"},
		"short zeros":          {string(make([]byte, 4)), "neither"},
		"zeros":                {string(make([]byte, reportSize)), "neither"},
		"large":                {strings.Repeat("\x02", maxEvidence+1), "no evidence is that large"},
		"hex":                  {"0200000000000000", "decode it"},
		"SGX quote":            {string(sgxHeader) + "xxxx", "SGX"},
		"certificate":          {"\x30\x82\x05\x00", "--cert"},
		"PEM":                  {"-----BEGIN CERTIFICATE-----\n", "--cert"},
		"event log":            {string(make([]byte, 32)) + "Spec ID Event03\x00", "event log"},
		"array":                {`[1]`, "it is text"},
		"not UTF-8":            {"{\"quote\":\"\xff\"}", "not UTF-8"},
		"object cut":           {`{"quote":"AA`, "ends too early"},
		"broken JSON":          {`{"quote":nope}`, "breaks at byte"},
		"name twice":           {`{"quote":"AA","quote":"BB"}`, "twice"},
		"escaped name twice":   {`{"quote":"AA","\u0071uote":"BB"}`, "twice"},
		"two objects":          {`{"quote":"AA"}{}`, "follows"},
		"two kinds":            {`{"quote":"AA","attestation_report":{}}`, "more than one kind"},
		"nothing known":        {`{"hello":1}`, "none of a KBS client"},
		"collateral":           {`{"tcb_info":"","qe_identity":""}`, "--collateral"},
		"wrapped number":       {`{"primary_evidence":5}`, "no object"},
		"wrapped null":         {`{"tee-evidence":null}`, "no object"},
		"wrapped empty":        {`{"tee-evidence":""}`, "too early"},
		"wrapped for ever":     {strings.Repeat(`{"tee-evidence":`, 8) + `{}` + strings.Repeat(`}`, 8), "wrapped more often"},
		"deep":                 {strings.Repeat(`{"a":`, 100_000), "nested deeper"},
		"deep arrays":          {`{"quote":` + strings.Repeat(`[`, 100_000), "nested deeper"},
		"deep inside a string": {`{"primary_evidence":"` + strings.Repeat(`[`, 100_000) + `"}`, "nested deeper"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := recognise([]byte(row.data))
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("recognised %v; %v does not say %q", got.form, err, row.says)
			}
		})
	}
}

// FuzzRecognise: whatever a file holds, it is one known form whose body is part of
// the file, or an error that quotes nothing of it at length.
func FuzzRecognise(f *testing.F) {
	for _, seed := range []string{
		`{"tee-evidence":{"primary_evidence":{"quote":"AA"},"additional_evidence":""}}`, `{"primary_evidence":"{\"snp-report\":\"\"}"}`,
		`{"svn":"1","report_data":""}`, `{"attestation_report":{"version":3}}`, `{`, "{\"a\":\"\\", `{"quote":[[[[]]]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Add(header(2, reportSize))
	f.Add([]byte{4, 0, 2, 0, 0x81, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := recognise(data)
		if err != nil {
			if len(err.Error()) > 200 || got.form != 0 && got.body == nil {
				t.Errorf("%v: %v", got.form, err)
			}
			return
		}
		if got.form < rawReport || got.form > sampleEvidence || len(got.body) == 0 || len(got.body) > len(data) {
			t.Errorf("form %d with %d of %d bytes", got.form, len(got.body), len(data))
		}
		if got.form == rawReport || got.form == rawQuote {
			if !bytes.Equal(got.body, data) {
				t.Error("raw evidence was changed")
			}
		} else if !json.Valid(got.body) {
			t.Error("the body is no JSON")
		}
	})
}
