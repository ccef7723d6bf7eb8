package kbs_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

var kinds = []string{"P-256", "P-521", "RSA-2048", "RSA-3072"}

// TestSealedOpensElsewhere opens answers with a library that shares no code with
// Seal, and by both builds of the stock client.
func TestSealedOpensElsewhere(t *testing.T) {
	for _, kind := range kinds {
		for _, secret := range []string{"", "x", `{"key_type":"oct","key":"0123456789abcdef0123456789abcdef"}`, strings.Repeat("long", 5000)} {
			g := guestKey(t, kind)
			answer, err := kbs.Seal(g.public, []byte(secret))
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := jose.ParseEncryptedJSON(string(answer),
				[]jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			var private any = g.rsa
			if g.ec != nil {
				private = g.ec
			}
			got, err := parsed.Decrypt(private)
			if err != nil || string(got) != secret {
				t.Errorf("%s: go-jose opens %q: %v", kind, got, err)
			}
			for _, sorted := range []bool{false, true} {
				got, err := stockClient(g, answer, sorted)
				if err != nil || string(got) != secret {
					t.Errorf("%s: stock client (sorted %v) opens %q: %v", kind, sorted, got, err)
				}
			}
		}
	}
}

// TestSealHeader: the one order, no blank, no other member, so that both ways of
// rewriting it give the bytes that were authenticated.
func TestSealHeader(t *testing.T) {
	for kind, want := range map[string]string{
		"P-256":    `{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":"`,
		"P-521":    `{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-521","kty":"EC","x":"`,
		"RSA-2048": `{"alg":"RSA-OAEP-256","enc":"A256GCM"}`,
	} {
		answer, err := kbs.Seal(guestKey(t, kind).public, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		var w map[string]string
		if err := json.Unmarshal(answer, &w); err != nil || len(w) != 5 {
			t.Fatalf("%s: %d members: %v", kind, len(w), err)
		}
		header, err := b64.DecodeString(w["protected"])
		if err != nil || !strings.HasPrefix(string(header), want) {
			t.Errorf("%s: header %s: %v", kind, header, err)
		}
		for _, sorted := range []bool{false, true} {
			if again, err := rewrite(header, sorted); err != nil || !bytes.Equal(again, header) {
				t.Errorf("%s: rewritten (sorted %v) to %s: %v", kind, sorted, again, err)
			}
		}
	}
}

func TestSealNeverRepeats(t *testing.T) {
	g := guestKey(t, "P-256")
	seen := map[string]bool{}
	for range 8 {
		answer, err := kbs.Seal(g.public, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		var w map[string]string
		if err := json.Unmarshal(answer, &w); err != nil {
			t.Fatal(err)
		}
		for name, v := range w {
			if seen[v] {
				t.Errorf("%s came twice", name)
			}
			seen[v] = true
		}
	}
}

func TestSealRefuses(t *testing.T) {
	if _, err := kbs.Seal(kbs.TEEKey{}, []byte("secret")); err == nil {
		t.Error("sealed to no key")
	}
	if _, err := kbs.Seal(guestKey(t, "P-256").public, make([]byte, 1<<20+1)); err == nil {
		t.Error("sealed more than the limit")
	}
}
