package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/corim"
)

// exampleValues is a document as siestad makes it of the guest that the page's launch digest is computed for, under a key that
// everybody knows.
func exampleValues(t *testing.T) (body, key []byte, of corim.PrivateKey) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := corim.ParsePrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		t.Fatal(err)
	}
	const line, publisher = "siesta.ws=example", "siesta.example.org/log"
	kernel, initrd, firmware := load(t, "digest/kernel.bin"), load(t, "digest/initrd.bin"), load(t, "digest/ovmf_AmdSev_suffix.bin")
	kernelSum, initrdSum := sha256.Sum256(kernel), sha256.Sum256(initrd)
	sig, _ := attest.VCPUSig("EPYC-Genoa")
	launch, err := attest.LaunchDigest(attest.DigestInput{
		Firmware: firmware, KernelSHA256: &kernelSum, InitrdSHA256: &initrdSum, Append: line, VCPUs: 2, VCPUSig: sig, GuestFeatures: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	number := uint64(corim.KeySNPMeasurement)
	files := corim.Tag{ID: "image/01jdexample", Author: "siestad v1"}
	for _, f := range []struct {
		name    string
		content []byte
	}{{"kernel", kernel}, {"initrd", initrd}, {"firmware", firmware}} {
		sum := sha256.Sum256(f.content)
		files.Values = append(files.Values, corim.Value{
			Environment: corim.Environment{Vendor: publisher, Model: files.ID}, Key: corim.Key{Text: f.name},
			Digests: []corim.Digest{{Algorithm: corim.SHA256, Value: sum[:]}},
		})
	}
	files.Values = append(files.Values, corim.Value{Environment: files.Values[0].Environment, Key: corim.Key{Text: "command-line"}, Raw: corim.Hex(line)})
	body, err = corim.Sign(corim.Document{
		ID: publisher + "/workspace/example/1", Profile: corim.ProfileSNP, Author: "siestad v1",
		NotBefore: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2027, 2, 22, 0, 0, 0, 0, time.UTC),
		Tags: []corim.Tag{{ID: "workspace/example/1", Author: "siestad v1, launch digest " + attest.DigestVersion, Values: []corim.Value{{
			Environment: corim.SNP(), Key: corim.Key{Number: &number}, Digests: []corim.Digest{{Algorithm: corim.SHA384, Value: launch[:]}},
		}}}, files},
	}, publisher, signer)
	if err != nil {
		t.Fatal(err)
	}
	return body, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), signer
}

func TestCorimExample(t *testing.T) {
	body, key, _ := exampleValues(t)
	golden(t, "reference-values.cose", string(body))
	golden(t, "reference-values.pem", string(key))
}

func TestCorimVerdicts(t *testing.T) {
	body, key, signer := exampleValues(t)
	at := []string{"--at", "2026-12-01T00:00:00Z"}
	file, public := put(t, body), put(t, key)
	status, out, errs := sv(nil, append([]string{"corim", file, "--key", public}, at...)...)
	if status != 0 || errs != "" || !strings.Contains(out, signer.Public().ID()) || !strings.Contains(out, "text siesta.ws=example") {
		t.Errorf("%d, %s\n%s", status, errs, out)
	}
	status, out, errs = sv(body, append([]string{"corim", "-", "--key", public, "-o", "json"}, at...)...)
	var signed struct {
		Signer   string
		Document struct {
			Tags []struct {
				Values []struct {
					Key     string
					Digests []struct{ Algorithm, Value string }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &signed); status != 0 || err != nil || signed.Signer != "siesta.example.org/log" ||
		signed.Document.Tags[0].Values[0].Key != "641" || signed.Document.Tags[0].Values[0].Digests[0].Algorithm != "sha-384" {
		t.Errorf("%d, %s, %v\n%s", status, errs, err, out)
	}

	changed := bytes.Clone(body)
	changed[len(changed)-1] ^= 1
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	stranger := put(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	unsigned, err := hex.DecodeString("d901f5a20061780180")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"changed":      {append([]string{put(t, changed), "--key", public}, at...), 1, "none of the given keys"},
		"another key":  {append([]string{file, "--key", stranger}, at...), 1, "none of the given keys"},
		"one of two":   {append([]string{file, "--key", stranger, "--key", public}, at...), 0, ""},
		"unsigned":     {append([]string{put(t, unsigned), "--key", public}, at...), 1, "not signed"},
		"over":         {[]string{file, "--key", public, "--at", "2027-03-01T00:00:00Z"}, 1, "not good after"},
		"no key":       {[]string{file}, 2, "--key is missing"},
		"no file":      {[]string{file + "x", "--key", public}, 2, "no such file"},
		"key is none":  {[]string{file, "--key", file}, 2, "PUBLIC KEY"},
		"too large":    {[]string{put(t, make([]byte, corim.MaxSize+1)), "--key", public}, 2, "more than"},
		"other format": {[]string{file, "--key", public, "-o", "yaml"}, 2, "table or json"},
		"no time":      {[]string{file, "--key", public, "--at", "soon"}, 2, "--at"},
	} {
		status, out, errs := sv(nil, append([]string{"corim"}, c.args...)...)
		if status != c.status || !strings.Contains(errs, c.says) || status != 0 && out != "" {
			t.Errorf("%s: status %d, %q, %q", name, status, out, errs)
		}
	}
}
