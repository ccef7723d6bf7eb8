package kbs_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

func TestInitData(t *testing.T) {
	for _, c := range []struct {
		name, toml string
		ok         bool
	}{
		{"plain", "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = '''\nalgorithm = \"sha512\"\n'''", true},
		{"literal, comments, CRLF", "# c\r\nversion='0.1.0' # c\r\n\r\nalgorithm\t=\t'sha512'\r\n", true},
		{"no algorithm", "version = \"0.1.0\"\n", false},
		{"no version", "algorithm = \"sha256\"\n", false},
		{"another version", "version = \"0.2.0\"\nalgorithm = \"sha256\"", false},
		{"algorithm behind the head", "version = \"0.1.0\"\n[data]\nalgorithm = \"sha256\"", false},
		{"algorithm twice", "version = \"0.1.0\"\nalgorithm = \"sha256\"\nalgorithm = \"sha384\"", false},
		{"quoted name", "version = \"0.1.0\"\n\"algorithm\" = \"sha256\"", false},
		{"escape", "version = \"0.1.0\"\nalgorithm = \"sha\\u0032\"", false},
		{"multi-line", "version = \"0.1.0\"\nalgorithm = \"\"\"sha256\"\"\"", false},
		{"dotted", "version = \"0.1.0\"\nalgorithm.x = \"sha256\"", false},
		{"another member", "version = \"0.1.0\"\nx = 1\nalgorithm = \"sha256\"", false},
		{"text behind", "version = \"0.1.0\"\nalgorithm = \"sha256\" x", false},
		{"weak", "version = \"0.1.0\"\nalgorithm = \"sha1\"", false},
		{"sm3", "version = \"0.1.0\"\nalgorithm = \"sm3\"", false},
		{"unterminated", "version = \"0.1.0\"\nalgorithm = \"sha256", false},
		{"empty", "", false},
		{"long", "version = \"0.1.0\"\nalgorithm = \"sha256\"\n#" + strings.Repeat("x", 64<<10), false},
	} {
		d, err := kbs.ParseInitData(c.toml)
		if (err == nil) != c.ok || (d == nil) == c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	d, err := kbs.ParseInitData("version = \"0.1.0\"\nalgorithm = \"sha256\"")
	if err != nil {
		t.Fatal(err)
	}
	host, config := d.HostData(), d.MRConfigID()
	if hex.EncodeToString(config[:]) != hex.EncodeToString(host[:])+strings.Repeat("00", 16) {
		t.Errorf("SHA-256 is padded with zeros: %x, %x", host, config)
	}
	other, err := kbs.ParseInitData("version = \"0.1.0\"\nalgorithm = \"sha256\"\n")
	if err != nil || other.HostData() == host {
		t.Error("the digest is not over the raw text")
	}
}
