package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// commands is what a terminal obeys: its title, its screen, and the one-character form of ESC [ with DEL.
const commands = "\x1b]0;x\x07\x1b[2J\r\u009b2J\x7f"

// obeyed finds what is left of them.
func obeyed(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' })
}

func TestAnErrorCannotCommandTheTerminal(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 404 gone" + strings.ReplaceAll(commands, "\r", "") + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
	}))
	defer server.Close()
	t.Setenv("SIESTA_CONFIG_DIR", t.TempDir())
	t.Setenv("SIESTA_TOKEN", "x")
	for _, args := range [][]string{{"workspace", "list"}, {"login", "--issuer", server.URL}} {
		var out, errs bytes.Buffer
		code := run(t.Context(), append(args, "--server", server.URL), &out, &errs)
		if code != 1 || !strings.Contains(errs.String(), "404 gone?") || obeyed(errs.String()) {
			t.Errorf("siesta %v: %d, %q", args, code, errs.String())
		}
	}
	if got := plainLines("one\x1b\n  next: two\r"); got != "one?\n  next: two?" {
		t.Errorf("%q", got)
	}
}

func TestAnIssuerCannotCommandTheTerminal(t *testing.T) {
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]any{"issuer": issuer.URL, "device_authorization_endpoint": issuer.URL + "/device"}
		if r.URL.Path == "/device" { // with a code that has run out: nobody waits for it
			answer = map[string]any{"device_code": "d", "user_code": "AB" + commands, "verification_uri": "https://open.example/" + commands, "expires_in": -60}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer issuer.Close()
	t.Setenv("SIESTA_CONFIG_DIR", t.TempDir())
	var out, errs bytes.Buffer
	run(t.Context(), []string{"login", "--issuer", issuer.URL, "--server", issuer.URL}, &out, &errs)
	if !strings.Contains(errs.String(), "Open https://open.example/?") || !strings.Contains(errs.String(), "the code AB?") || obeyed(errs.String()) {
		t.Errorf("%q", errs.String())
	}
}

func TestAnOperationCannotCommandTheTerminal(t *testing.T) {
	text, err := json.Marshal("odd" + commands)
	must(t, err)
	odd := string(text)
	out, _ := siesta(t, map[string]string{
		"GET /v1/operations/o1": `{"id":"o1","state":"succeeded","kind":` + odd + `,"workspace":` + odd + `,"steps":[{"state":` + odd + `,"name":` + odd + `,"detail":` + odd + `}]}`,
	}, "operation", "watch", "o1")
	if strings.Count(out, "odd?") != 5 || obeyed(out) {
		t.Errorf("%q", out)
	}
}

func TestJSONCannotCommandTheTerminal(t *testing.T) {
	want := "\\" + commands + "\u0080\u009f\u00a0\nü€😀"
	text, err := json.Marshal(want)
	must(t, err)
	const id = "e\x9b1" // the byte that is CSI to a terminal of eight bits
	answers := map[string]string{"GET /v1/endorsements/e1": `{"id":"` + id + `","signer":` + string(text) + `}`}
	answers["GET /v1/endorsements"] = `{"items":[` + answers["GET /v1/endorsements/e1"] + `]}`
	for _, args := range [][]string{{"show", "e1"}, {"list"}} {
		out, _ := siesta(t, answers, append([]string{"endorsement", "-o", "json"}, args...)...)
		var v endorsementView
		body := strings.Trim(out, "[]\n")
		if err := json.Unmarshal([]byte(body), &v); err != nil || v.Signer != want || v.ID != "e\ufffd1" {
			t.Errorf("%v: %q, %q, %v", args, v.ID, v.Signer, err)
		}
		if obeyed(out) || !utf8.ValidString(out) || !strings.Contains(out, `\u009b2J\u007f`) || !strings.Contains(out, "ü€😀") {
			t.Errorf("%v: %q", args, out)
		}
	}
}
