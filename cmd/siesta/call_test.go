package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// against runs a command against a server of this test's.
func against(t *testing.T, server http.HandlerFunc, args ...string) (stdout string, err error) {
	t.Helper()
	s := httptest.NewServer(server)
	defer s.Close()
	t.Setenv("SIESTA_CONFIG_DIR", t.TempDir())
	t.Setenv("SIESTA_TOKEN", "x")
	var out bytes.Buffer
	root := newRoot(&out, io.Discard)
	root.SetArgs(append(args, "--server", s.URL))
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

func answering(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestWhatAnAnswerSays: a problem says everything that its advice speaks of, and what is not siestad is not taken for it.
func TestWhatAnAnswerSays(t *testing.T) {
	const problems, elsewhere = "application/problem+json", "its address (--server, SIESTA_SERVER)"
	for name, row := range map[string]struct {
		server http.HandlerFunc
		says   []string
		not    string
	}{
		"faults": {
			answering(400, problems, `{"title":"T","status":400,"detail":"D.","next":"Correct what `+"`errors`"+` names.","instance":"urn:siestad:request:r1","errors":[{"where":"body /note","what":"too short"},{"where":"query state","what":"unknown"}]}`),
			[]string{"D.\n  errors: body /note: too short\n  errors: query state: unknown\n  next: Correct what `errors` names."},
			"r1",
		},
		"facts": {
			answering(403, problems, `{"title":"T","status":403,"detail":"D.","next":"See in facts.","facts":[{"name":"permit","holds":false,"why":"there is none","fix":"the custodian"},{"name":"member","holds":true,"why":"yes","fix":"nobody"}]}`),
			[]string{"\n  facts: permit: there is none; who can fix it: the custodian\n  next: See"},
			"member",
		},
		"too many requests": {
			answering(429, problems, `{"title":"T","status":429,"detail":"D.","next":"Wait as long as Retry-After says.","retry_after":7}`),
			[]string{"\n  retry after: 7 seconds\n  next: Wait"},
			"request id",
		},
		"broken": {
			answering(500, problems, `{"title":"T","status":500,"detail":"D.","next":"Give the request id.","instance":"urn:siestad:request:r1"}`),
			[]string{"\n  next: Give the request id.\n  request id: r1"},
			"urn:",
		},
		"title alone": {answering(503, problems, `{"title":"Not now","status":503}`), []string{"Not now"}, "next"},
		"hostile":     {answering(422, problems, `{"title":"T","detail":"a\u001b[2Jb\nc","next":"n\u202e"}`), []string{"a?[2Jb?c\n  next: n?"}, "\x1b"},

		"a page":            {answering(200, "text/html; charset=utf-8", `<html>Log in</html>`), []string{"what answered 200 OK is not siestad", elsewhere}, "<html>"},
		"a page of a proxy": {answering(502, "text/html", `<html>Bad Gateway</html>`), []string{"what answered 502 Bad Gateway is not siestad", elsewhere}, "<html>"},
		"other JSON":        {answering(404, "application/json", `{"message":"no route"}`), []string{"what answered 404 Not Found is not siestad", elsewhere}, "route"},
		"no list":           {answering(200, "application/json", `{"keys":[]}`), []string{"GET /v1/floors: what answered is not siestad", elsewhere}, "keys"},
		"no JSON":           {answering(200, "application/json", `{"items":[`), []string{"GET /v1/floors: unexpected answer"}, "\n\n"},
		"too much":          {answering(200, "application/json", strings.Repeat(" ", maxAnswer+1)), []string{"the answer has more than 16777216 bytes"}, "\n\n"},
		"hanging up":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, []string{"asking the service: Get", "EOF", "see that it runs"}, "\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := against(t, row.server, "floor", "list")
			if err == nil || out != "" {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, part := range row.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in:\n%v", part, err)
				}
			}
			if strings.Contains(err.Error(), row.not) {
				t.Errorf("%q is in:\n%v", row.not, err)
			}
		})
	}
}

// TestBrokenConnections: a request that makes something is sent once more, as the same one; so its answer can be given again.
func TestBrokenConnections(t *testing.T) {
	var keys []string
	out, err := against(t, func(w http.ResponseWriter, r *http.Request) {
		if keys = append(keys, r.Header.Get("Idempotency-Key")); len(keys) == 1 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"id":"q1","kind":"product","value":"Milan","state":"live"}`)
	}, "quarantine", "place", "product", "Milan", "--reason", "x")
	if err != nil || !strings.Contains(out, "q1") || len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("%v, keys %q\n%s", err, keys, out)
	}
}
