package workspace

import (
	"encoding/hex"
	"fmt"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/image"
)

// ReferenceValues are what the armed generation of a workspace may measure, and the files and the line from which anybody can
// compute it again. Each digest is a value of its own: the guest has one of them, whichever its host gives it.
//
// img is the workspace's image. Where nothing would get a key there are no values: they would call acceptable what is refused.
func (w Workspace) ReferenceValues(img image.Image, publisher string) ([]corim.Tag, error) {
	fail := func(format string, args ...any) ([]corim.Tag, error) {
		return nil, fmt.Errorf("reference values of workspace %s: "+format, append([]any{w.ID}, args...)...)
	}
	switch {
	case w.State == Deleting || w.State == Deleted:
		return fail("%w: it is %s", ErrState, w.State)
	case w.Simulated:
		return fail("%w: its processor is simulated", ErrState)
	case w.Line == "" || len(w.Measurements) == 0:
		return fail("%w: its guest is not measured yet", ErrState)
	}
	files, err := img.ReferenceValues(publisher)
	if err != nil {
		return fail("%w", err)
	}
	number := uint64(corim.KeySNPMeasurement)
	launch := corim.Tag{ID: fmt.Sprintf("workspace/%s/%d", w.ID, w.Generation), Author: "launch digest " + attest.DigestVersion}
	for _, m := range w.Measurements {
		digest, err := hex.DecodeString(m)
		if err != nil {
			return fail("a measurement: %w", err)
		}
		launch.Values = append(launch.Values, corim.Value{
			Environment: corim.SNP(), Key: corim.Key{Number: &number}, Digests: []corim.Digest{{Algorithm: corim.SHA384, Value: digest}},
		})
	}
	files.Values = append(files.Values, corim.Value{
		Environment: files.Values[0].Environment, Key: corim.Key{Text: "command-line"}, Raw: corim.Hex(w.Line),
	})
	return []corim.Tag{launch, files}, nil
}
