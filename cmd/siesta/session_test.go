package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestDeviceInterval: what an issuer says of how often it wants to be asked is bounded. Its code has run out, so nobody waits.
func TestDeviceInterval(t *testing.T) {
	for interval, word := range map[int64]string{
		0: "waiting for the confirmation", maxInterval: "waiting for the confirmation",
		-1: "wants to be asked every -1 seconds, which is not between 1 and 300", maxInterval + 1: "every 301 seconds", 1 << 62: "wants to be asked every",
	} {
		var issuer *httptest.Server
		issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := map[string]any{"issuer": issuer.URL, "device_authorization_endpoint": issuer.URL + "/device"}
			if r.URL.Path == "/device" {
				answer = map[string]any{"device_code": "d", "user_code": "AB", "verification_uri": "https://open.example/", "expires_in": -60, "interval": interval}
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
		}))
		t.Setenv("SIESTA_CONFIG_DIR", t.TempDir())
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"login", "--issuer", issuer.URL, "--server", issuer.URL}, &out, &errs)
		if code != 1 || !strings.Contains(errs.String(), word) {
			t.Errorf("an interval of %d: %d, %q", interval, code, errs.String())
		}
		issuer.Close()
	}
}
