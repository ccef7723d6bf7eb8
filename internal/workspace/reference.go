package workspace

import (
	"fmt"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// ReferenceValues are what the armed guest of a workspace may measure, and the files and the line from which anybody can compute
// it again. Each digest is a value of its own: the guest has one of them, whichever its host gives it.
//
// arm is the broker's, which alone decides what gets a key: what was asked for once and is refused now, or was never armed, would
// be called acceptable here for longer than anybody remembers it. img is its image.
func (w Workspace) ReferenceValues(arm keybroker.Arm, img image.Image, publisher string) ([]corim.Tag, error) {
	fail := func(format string, args ...any) ([]corim.Tag, error) {
		return nil, fmt.Errorf("reference values of workspace %s: "+format, append([]any{w.ID}, args...)...)
	}
	switch {
	case w.Simulated || arm.Policy.Simulated:
		return fail("%w: its processor is simulated", ErrState)
	case arm.Policy.TDX != nil:
		return fail("%w: of trust domains none are given out yet; its measurements and its image's values say the same", ErrState)
	case len(arm.Policy.Measurements) == 0 || arm.Workspace != w.ID || arm.Generation != w.Generation || arm.Image != img.ID || w.Line == "":
		return fail("%w: no guest of it is armed", ErrState)
	}
	files, err := img.ReferenceValues(publisher)
	if err != nil {
		return fail("%w", err)
	}
	number := uint64(corim.KeySNPMeasurement)
	launch := corim.Tag{ID: fmt.Sprintf("workspace/%s/%d", w.ID, arm.Generation), Author: "launch digest " + attest.DigestVersion}
	for _, digest := range arm.Policy.Measurements {
		launch.Values = append(launch.Values, corim.Value{
			Environment: corim.SNP(), Key: corim.Key{Number: &number}, Digests: []corim.Digest{{Algorithm: corim.SHA384, Value: digest}},
		})
	}
	files.Values = append(files.Values, corim.Value{
		Environment: files.Values[0].Environment, Key: corim.Key{Text: "command-line"}, Raw: corim.Hex(w.Line),
	})
	return []corim.Tag{launch, files}, nil
}
