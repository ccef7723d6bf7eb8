package openstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/url"
	"time"

	"github.com/google/uuid"
)

// ImageSpec describes a kernel or an initrd that the site must hold byte for byte.
type ImageSpec struct {
	ID              string // client-chosen UUID: the natural key; ImageID derives it from the SHA-256
	Name            string
	SHA512          string // lower-case hex
	Size            int64
	ContainerFormat string // "aki" or "ari"
	DiskFormat      string // the same
	Open            func(ctx context.Context) (io.ReadCloser, error)
}

// Image is what Glance holds.
type Image struct {
	ID, Name, Status string
	Size             int64
	SHA512           string
}

// ImageID derives the UUID under which an image with these contents is stored, so that two uploads of the same bytes by
// the same installation meet in one record.
func ImageID(installation string, digest [32]byte) string {
	return derivedUUID("siesta/image/v1", installation, string(digest[:]))
}

func derivedUUID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte{byte(len(p) >> 8), byte(len(p))})
		h.Write([]byte(p))
	}
	id := uuid.UUID(h.Sum(nil)[:16])
	id[6] = id[6]&0x0f | 0x80 // version 8: the contents are our own business
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

type imageWire struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Size      *int64 `json:"size"`
	HashAlgo  string `json:"os_hash_algo"`
	HashValue string `json:"os_hash_value"`
	Owner     string `json:"owner"`
}

func (w imageWire) check(op, asked string) (Image, error) {
	if !uuidForm.MatchString(w.ID) {
		return Image{}, unusable(image, op, asked, "the answer is not an image")
	}
	i := Image{ID: w.ID, Name: clean(w.Name, 255), Status: clean(w.Status, 32)}
	if w.Size != nil {
		i.Size = *w.Size
	}
	if w.HashAlgo == "sha512" {
		i.SHA512 = clean(w.HashValue, 128)
	}
	return i, nil
}

const (
	maxImage      = 2 << 30
	uploadTimeout = 15 * time.Minute
	// maxRebirths bounds how many ids of deleted images are stepped over.
	maxRebirths = 16
)

// EnsureImage makes the site hold the image, active, with the wanted hash.
//
// The id is the natural key, chosen by us: a second POST answers 409. Glance remembers the ids of deleted images and
// refuses them for ever after, and an id may be taken where we cannot see it; both look the same, a 409 for an image that
// is not there, and then the next id derived from the last is used. So the id to boot with is the one returned.
func (c *Client) EnsureImage(ctx context.Context, spec ImageSpec) (Image, error) {
	const op = "creating image"
	if err := c.nameable(image.name, op, spec.Name); err != nil {
		return Image{}, err
	}
	if err := identifier(image, op, spec.ID); err != nil {
		return Image{}, err
	}
	if digest, err := hex.DecodeString(spec.SHA512); err != nil || len(digest) != 64 || spec.Size < 1 || spec.Size > maxImage || spec.Open == nil {
		return Image{}, unusable(image, op, spec.Name, "an image needs its SHA-512, its size and its bytes")
	}
	id := spec.ID
	for range maxRebirths {
		i, err := c.ensureImageRecord(ctx, op, id, spec)
		if KindOf(err) == Conflict {
			id = derivedUUID("siesta/image/next/v1", id)
			continue
		}
		if err != nil {
			return Image{}, err
		}
		return c.fillImage(ctx, op, i, spec)
	}
	return Image{}, unusable(image, op, spec.Name, "too many images with these bytes were deleted at the site")
}

// ensureImageRecord makes the record exist; Conflict means that the id cannot be ours.
func (c *Client) ensureImageRecord(ctx context.Context, op, id string, spec ImageSpec) (Image, error) {
	i, err := c.Image(ctx, id)
	if KindOf(err) != NotFound {
		return i, err
	}
	body := map[string]any{
		"id": id, "name": spec.Name, "visibility": "private",
		"container_format": spec.ContainerFormat, "disk_format": spec.DiskFormat,
	}
	posted := c.send(ctx, request{service: image, op: op, object: spec.Name, method: "POST", path: []string{"images"}, body: body, ok: []int{201}})
	if kind := KindOf(posted); kind != "" && kind != Conflict && kind != Ambiguous {
		return Image{}, posted
	}
	i, err = c.Image(ctx, id)
	if KindOf(err) == NotFound && posted != nil {
		return Image{}, posted
	}
	return i, err
}

// fillImage uploads the bytes where none are yet, and believes only what Glance's own hash says.
func (c *Client) fillImage(ctx context.Context, op string, i Image, spec ImageSpec) (Image, error) {
	if i.Name != spec.Name {
		return Image{}, unusable(image, op, spec.Name, "an image of another name has its id")
	}
	if i.Status == "queued" {
		uploaded := c.upload(ctx, i.ID, spec)
		if kind := KindOf(uploaded); kind != "" && kind != Ambiguous && kind != Conflict {
			return Image{}, uploaded
		}
		id := i.ID
		var err error
		if i, err = c.Image(ctx, id); err != nil {
			return Image{}, err
		}
		if i.Status == "queued" && uploaded != nil {
			return Image{}, uploaded
		}
	}
	switch {
	case i.Status == "saving" || i.Status == "importing" || i.Status == "uploading" || i.Status == "queued":
		return Image{}, &Error{Kind: Retryable, Service: image.name, Op: op, Object: spec.Name, Reason: "its bytes are still on the way"}
	case i.Status != "active":
		return Image{}, unusable(image, op, spec.Name, "its status is "+i.Status)
	case i.SHA512 != spec.SHA512 || i.Size != spec.Size:
		return Image{}, unusable(image, op, spec.Name, "the site's copy has other bytes")
	}
	return i, nil
}

func (c *Client) upload(ctx context.Context, id string, spec ImageSpec) error {
	const op = "uploading image"
	return c.send(ctx, request{
		service: image, op: op, object: spec.Name, method: "PUT", path: []string{"images", id, "file"},
		raw: &octets{open: spec.Open, size: spec.Size}, ok: []int{204}, timeout: uploadTimeout,
	})
}

// Image reads one image.
func (c *Client) Image(ctx context.Context, id string) (Image, error) {
	const op = "reading image"
	if err := identifier(image, op, id); err != nil {
		return Image{}, err
	}
	var w imageWire
	if err := c.get(ctx, image, op, id, nil, &w, "images", id); err != nil {
		return Image{}, err
	}
	if w.ID != id {
		return Image{}, unusable(image, op, id, "another image came back")
	}
	return w.check(op, id)
}

// ImageByName finds an image of the project by exact name; NotFound where there is none, Conflict where there are several.
func (c *Client) ImageByName(ctx context.Context, name string) (Image, error) {
	const op = "finding image"
	var doc struct{ Images []imageWire }
	if err := c.get(ctx, image, op, name, url.Values{"name": {name}, "limit": {"100"}}, &doc, "images"); err != nil {
		return Image{}, err
	}
	var found []imageWire
	for _, w := range doc.Images {
		if w.Name == name {
			found = append(found, w)
		}
	}
	switch len(found) {
	case 0:
		return Image{}, &Error{Kind: NotFound, Service: image.name, Op: op, Object: clean(name, 63)}
	case 1:
		return found[0].check(op, clean(name, 63))
	}
	return Image{}, &Error{Kind: Conflict, Service: image.name, Op: op, Object: clean(name, 63), Reason: "several bear the name"}
}

// DeleteImage deletes an image of this installation; absence is success.
func (c *Client) DeleteImage(ctx context.Context, id string) error {
	const op = "deleting image"
	i, err := c.Image(ctx, id)
	if ours, err := c.mayDelete(image, op, id, i.Name, err); !ours {
		return err
	}
	return c.remove(ctx, image, op, id, "images", id)
}
