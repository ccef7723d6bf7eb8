package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/oauth2"
)

// siesta runs a command against a server that knows these answers, and records what was posted to it.
func siesta(t *testing.T, answers map[string]string, args ...string) (stdout string, posted []byte) {
	t.Helper()
	stdout, _, posted = siestaAndErrors(t, answers, args...)
	return stdout, posted
}

func siestaAndErrors(t *testing.T, answers map[string]string, args ...string) (stdout, stderr string, posted []byte) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok || r.Header.Get("Authorization") != "Bearer x" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		if r.Method == http.MethodPost {
			var b bytes.Buffer
			_, _ = b.ReadFrom(r.Body)
			posted = b.Bytes()
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	dir := t.TempDir()
	t.Setenv("SIESTA_CONFIG_DIR", dir)
	if err := (session{Server: server.URL, Token: &oauth2.Token{AccessToken: "x"}}).save(); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	root := newRoot(&out, &errs)
	root.SetArgs(args)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("siesta %v: %v\n%s", args, err, errs.String())
	}
	return out.String(), errs.String(), posted
}

func TestWhoJudgesAnImageSeesItsEndorsements(t *testing.T) {
	answers := map[string]string{
		"GET /v1/images/i1":              `{"id":"i1","name":"desktop","state":"registered"}`,
		"POST /v1/images/i1/approve":     `{"id":"i1","name":"desktop","state":"approved"}`,
		"GET /v1/images/i1/endorsements": `{"items":[{"file":"firmware","subject":"ACME OVMF","endorsement":"e1","corim_id":"acme/1","signer":"ACME","signer_key":"` + strings.Repeat("ab", 32) + `"}],"left_out":7}`,
		"GET /v1/images/i2":              `{"id":"i2","name":"desktop","state":"registered"}`,
		"GET /v1/images/i2/endorsements": `{"items":[],"left_out":0}`,
	}
	for _, verb := range []string{"show", "endorsements"} {
		if _, errs, _ := siestaAndErrors(t, answers, "image", verb, "i1"); !strings.Contains(errs, "7 more are left out") {
			t.Errorf("image %s hides that there is more: %s", verb, errs)
		}
	}
	for _, verb := range []string{"show", "approve"} {
		if out, _ := siesta(t, answers, "image", verb, "i1"); !strings.Contains(out, "ACME OVMF") || !strings.Contains(out, "acme/1") || !strings.Contains(out, "firmware") {
			t.Errorf("image %s:\n%s", verb, out)
		}
	}
	if out, _ := siesta(t, answers, "image", "show", "i2"); !strings.Contains(out, "No imported document endorses") {
		t.Error(out)
	}
	out, _ := siesta(t, answers, "image", "endorsements", "i1", "-o", "json")
	var list []imageEndorsementView
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].Endorsement != "e1" {
		t.Errorf("%v in %s", err, out)
	}
}

func TestDocumentsAreSavedByteForByte(t *testing.T) {
	const document = "\xd2\x84\x00\xffbytes"
	answers := map[string]string{
		"GET /v1/images/i1/reference-values":     document,
		"GET /v1/workspaces/w1/reference-values": document,
		"GET /v1/endorsements/e1":                `{"id":"e1","document":"0oQA/2J5dGVz"}`,
		"POST /v1/endorsements":                  `{"id":"e1","corim_id":"acme/1"}`,
	}
	for _, args := range [][]string{{"image", "reference-values", "i1"}, {"workspace", "reference-values", "w1"}, {"endorsement", "document", "e1"}} {
		if out, _ := siesta(t, answers, args...); out != document {
			t.Errorf("%v: %q", args, out)
		}
		file := filepath.Join(t.TempDir(), "d.cbor")
		siesta(t, answers, append(args, "--out", file)...)
		if saved, err := os.ReadFile(file); err != nil || string(saved) != document {
			t.Errorf("%v: %q, %v", args, saved, err)
		}
	}
	file := filepath.Join(t.TempDir(), "d.cbor")
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	out, posted := siesta(t, answers, "endorsement", "import", file)
	if !strings.Contains(out, "acme/1") || string(posted) != `{"document":"0oQA/2J5dGVz"}` {
		t.Errorf("%s\n%s", out, posted)
	}
}
