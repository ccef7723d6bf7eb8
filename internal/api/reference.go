package api

import (
	"bytes"
	"context"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/corim"
)

// Publisher signs what this installation says of its guests. Without a key it says nothing.
type Publisher struct {
	Name  string // of the installation, in documents
	Build string // who made the document: this program and its version
	Key   corim.PrivateKey
}

// referenceLife is how long a document is good; whoever needs it longer fetches another.
const referenceLife = 90 * 24 * time.Hour

func (h *handlers) GetImageReferenceValues(ctx context.Context, r gen.GetImageReferenceValuesRequestObject) (gen.GetImageReferenceValuesResponseObject, error) {
	img, err := h.image(ctx, "image.get", r.Image)
	if err != nil {
		return nil, err
	}
	tag, err := img.ReferenceValues(h.cfg.Publisher.Name)
	if err != nil {
		return nil, err
	}
	body, err := h.publish(corim.Document{Tags: []corim.Tag{tag}})
	if err != nil {
		return nil, err
	}
	return gen.GetImageReferenceValues200ApplicationRimCoseResponse{Body: bytes.NewReader(body), ContentLength: int64(len(body))}, nil
}

func (h *handlers) GetWorkspaceReferenceValues(ctx context.Context, r gen.GetWorkspaceReferenceValuesRequestObject) (gen.GetWorkspaceReferenceValuesResponseObject, error) {
	w, err := h.workspace(ctx, "workspace.get", r.Workspace)
	if err != nil {
		return nil, err
	}
	arm, err := h.cfg.Broker.Armed(ctx, w.ID)
	if err != nil {
		return nil, err
	}
	img, err := h.cfg.Images.Image(ctx, arm.Image)
	if err != nil {
		return nil, err
	}
	tags, err := w.ReferenceValues(arm, img, h.cfg.Publisher.Name)
	if err != nil {
		return nil, err
	}
	body, err := h.publish(corim.Document{Profile: corim.ProfileSNP, Tags: tags})
	if err != nil {
		return nil, err
	}
	return gen.GetWorkspaceReferenceValues200ApplicationRimCoseResponse{Body: bytes.NewReader(body), ContentLength: int64(len(body))}, nil
}

// publish signs a document that is named after its first tag.
func (h *handlers) publish(d corim.Document) ([]byte, error) {
	if h.cfg.Publisher.Key.Public().ID() == "" {
		return nil, kindState.because("This installation has no key that signs reference values.")
	}
	d.ID = h.cfg.Publisher.Name + "/" + d.Tags[0].ID
	d.NotBefore = h.cfg.Now().UTC().Truncate(time.Second)
	d.NotAfter = d.NotBefore.Add(referenceLife)
	d.Author = h.cfg.Publisher.Build
	for i, tag := range d.Tags {
		d.Tags[i].Author = h.cfg.Publisher.Build
		if tag.Author != "" {
			d.Tags[i].Author += ", " + tag.Author
		}
	}
	return corim.Sign(d, h.cfg.Publisher.Name, h.cfg.Publisher.Key)
}
