//go:build pkcs11

package keybroker

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ThalesGroup/crypto11"
)

func TestPKCS11Keyring(t *testing.T) {
	dir := t.TempDir()
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{conf: "directories.tokendir = " + filepath.Join(dir, "tokens") + "\n", pin: "123456\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "siesta", "--pin", "123456", "--so-pin", "654321").CombinedOutput(); err != nil {
		t.Fatalf("making a token: %v\n%s", err, out)
	}
	c := PKCS11Config{Module: "/usr/lib/softhsm/libsofthsm2.so", Token: "siesta", PINFile: pin, Installation: "testinst"}
	if _, err := OpenPKCS11Keyring(c); err == nil {
		t.Error("an empty token was opened")
	}
	k, err := CreatePKCS11Keyring(c)
	if err != nil {
		t.Fatal(err)
	}
	testKeyring(t, k)
	if a, err := k.token.GetAttribute(k.roots[2], crypto11.CkaExtractable); err != nil || len(a.Value) != 1 || a.Value[0] != 0 {
		t.Errorf("the root can be taken out of the token: %v", err)
	}
	wrapped, err := k.Wrap(context.Background(), 2, nil, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenPKCS11Keyring(c)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if plain, err := again.Unwrap(context.Background(), 2, nil, wrapped); err != nil || string(plain) != "secret" {
		t.Errorf("after opening again: %v", err)
	}
	if _, err := CreatePKCS11Keyring(c); err == nil {
		t.Error("a second first root was made")
	}
	c.Installation = "another1"
	if _, err := OpenPKCS11Keyring(c); err == nil {
		t.Error("the roots of another installation were taken")
	}
}
