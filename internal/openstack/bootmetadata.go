package openstack

import (
	"context"
	"fmt"
	"maps"
)

// MaxCommandLine is how many bytes of an image property survive in Nova's system metadata. A longer kernel command line
// would boot whole once and truncated after the next hard reboot, and so measure two things.
const MaxCommandLine = 255

// SetBootMetadata makes the volume bootable with exactly these image properties, and reads both back. Setting overwrites,
// so repeating it after a lost answer is harmless.
func (c *Client) SetBootMetadata(ctx context.Context, volumeID string, properties map[string]string) error {
	const op = "setting boot metadata of volume"
	if err := identifier(volume, op, volumeID); err != nil {
		return err
	}
	if err := checkBootProperties(properties); err != nil {
		return unusable(volume, op, volumeID, err.Error())
	}
	v, err := c.Volume(ctx, volumeID)
	if err != nil {
		return err
	}
	if !c.owned(v.Name) {
		return unusable(volume, op, volumeID, "it does not bear this installation's prefix")
	}
	if v.Bootable && maps.Equal(v.ImageMetadata, properties) {
		return nil
	}
	action := func(body map[string]any) error {
		return c.send(ctx, request{
			service: volume, op: op, object: volumeID, method: "POST",
			path: []string{"volumes", volumeID, "action"}, body: body, ok: []int{200, 202}, repeatable: true,
		})
	}
	for key := range v.ImageMetadata {
		if _, wanted := properties[key]; wanted {
			continue
		}
		err := action(map[string]any{"os-unset_image_metadata": map[string]any{"key": key}})
		if err != nil && KindOf(err) != NotFound {
			return err
		}
	}
	if err := action(map[string]any{"os-set_bootable": map[string]any{"bootable": true}}); err != nil {
		return err
	}
	if err := action(map[string]any{"os-set_image_metadata": map[string]any{"metadata": properties}}); err != nil {
		return err
	}
	// The launch digest is computed over what was asked for; the guest measures what is stored.
	if v, err = c.Volume(ctx, volumeID); err != nil {
		return err
	}
	if !v.Bootable || !maps.Equal(v.ImageMetadata, properties) {
		return unusable(volume, op, volumeID, "what is read back is not what was set")
	}
	return nil
}

func checkBootProperties(properties map[string]string) error {
	if properties["kernel_id"] == "" || properties["ramdisk_id"] == "" || properties["os_command_line"] == "" {
		// Without a line Nova would use one of its own; without a kernel nothing is measured.
		return fmt.Errorf("kernel_id, ramdisk_id and os_command_line must all be set")
	}
	if len(properties) > 64 {
		return fmt.Errorf("%d properties are more than 64", len(properties))
	}
	for key, value := range properties {
		if key == "" || len(key) > 255 || clean(key, 255) != key {
			return fmt.Errorf("property %q has no usable name", clean(key, 64))
		}
		if len(value) > MaxCommandLine {
			return fmt.Errorf("%s is %d bytes long, and Nova keeps %d", key, len(value), MaxCommandLine)
		}
		if clean(value, MaxCommandLine) != value {
			return fmt.Errorf("%s is not one printable line with single spaces", key)
		}
	}
	return nil
}
