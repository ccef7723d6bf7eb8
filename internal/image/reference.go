package image

import (
	"fmt"

	"github.com/eosc-siesta/siestad/internal/corim"
)

// ReferenceValues are the digests of an approved image's files, in the name of who publishes them. Whoever builds or audits
// the same files can compare; no launch digest is among them, for that depends on the line of a workspace.
func (i Image) ReferenceValues(publisher string) (corim.Tag, error) {
	if i.State != Approved {
		return corim.Tag{}, fmt.Errorf("reference values of image %s: %w: it is %s", i.ID, ErrState, i.State)
	}
	tag := corim.Tag{ID: "image/" + i.ID}
	for _, kind := range []Kind{Kernel, Initrd, Firmware} {
		f := i.files()[kind]
		tag.Values = append(tag.Values, corim.Value{
			Environment: corim.Environment{Vendor: publisher, Model: tag.ID}, Key: corim.Key{Text: string(kind)},
			Digests: []corim.Digest{{Algorithm: corim.SHA256, Value: f.SHA256[:]}, {Algorithm: corim.SHA512, Value: f.SHA512[:]}},
		})
	}
	return tag, nil
}
