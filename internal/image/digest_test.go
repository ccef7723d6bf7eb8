package image

import (
	"errors"
	"testing"

	"github.com/eosc-siesta/siestad/internal/corim"
)

// A digest of nothing endorses nothing.
func TestValuesSayOfWhatTheyAre(t *testing.T) {
	v := corim.Value{Digests: []corim.Digest{{Algorithm: corim.SHA256, Value: make([]byte, 32)}}}
	if _, err := fileValues(corim.Document{Tags: []corim.Tag{{Values: []corim.Value{v}}}}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	v.Name = "vmlinuz"
	if got, err := fileValues(corim.Document{Tags: []corim.Tag{{Values: []corim.Value{v}}}}); err != nil || got.digests != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
