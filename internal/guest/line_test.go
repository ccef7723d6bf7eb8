package guest

import (
	"strings"
	"testing"
)

const goodLine = "console=ttyS0 panic=-1 siesta.ws=01jqqqqqqqqqqqqqqqqqqqqqqq siesta.gen=3 siesta.broker=https://broker.example:8443 siesta.kb=1UkFYxVfl0JpKFdJt52VhGPcRDh-5_HnVoh3acQci_U"

func TestParseLine(t *testing.T) {
	want := Line{Workspace: "01jqqqqqqqqqqqqqqqqqqqqqqq", Generation: 3, Broker: "https://broker.example:8443", KeyHash: "1UkFYxVfl0JpKFdJt52VhGPcRDh-5_HnVoh3acQci_U"}
	for _, text := range []string{goodLine, goodLine + " initrd=initrd\n", "BOOT_IMAGE=x " + goodLine} {
		if got, err := ParseLine(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	replace := func(from, to string) string { return strings.Replace(goodLine, from, to, 1) }
	for name, text := range map[string]string{
		"empty":            "",
		"twice the same":   goodLine + " siesta.gen=3",
		"twice":            goodLine + " siesta.broker=http://evil",
		"unknown word":     goodLine + " siesta.debug=1",
		"quoted word":      goodLine + ` "siesta.gen=4"`,
		"underscore":       goodLine + " siesta_gen=4",
		"no workspace":     replace("siesta.ws=", "ws="),
		"upper case":       replace("01jq", "01JQ"),
		"generation 0":     replace("gen=3", "gen=0"),
		"generation +3":    replace("gen=3", "gen=+3"),
		"generation 03":    replace("gen=3", "gen=03"),
		"generation big":   replace("gen=3", "gen=99999999999999999999"),
		"other scheme":     replace("https://", "file://"),
		"user in URL":      replace("https://", "https://user:password@"),
		"query":            replace(":8443", ":8443/?x"),
		"slash":            replace(":8443", ":8443/"),
		"short hash":       replace("kb=1", "kb="),
		"hash not strict":  replace("ci_U", "ci_V"),
		"too long":         goodLine + strings.Repeat(" x", maxLine),
		"word of its name": goodLine + " siesta",
	} {
		if got, err := ParseLine(text); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(goodLine)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLine(text)
		if err == nil && (strings.Count(text, "siesta.gen=") < 1 || l.Generation < 1 || len(l.Workspace) != 26 || len(l.KeyHash) != 43) {
			t.Errorf("%q gave %+v", text, l)
		}
	})
}
