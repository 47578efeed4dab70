package compile

import (
	"fmt"
	"slices"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/compress"
)

// compression is the stanza of a TransformPolicy that is a compress.Config.
const compression = "response.compression"

// What is compressed unless a policy says otherwise.
var (
	defaultAlgorithms = []v1alpha1.CompressionAlgorithm{"zstd", "br", "gzip"}
	defaultTypes      = []string{
		"text/*", "application/json", "application/*+json", "application/javascript", "application/xml", "application/*+xml",
		"application/wasm", "application/x-ndjson", "image/svg+xml", "image/bmp", "font/ttf", "font/otf",
	}
)

const (
	defaultMinSize = 1 << 10
	mostMinSize    = 1 << 30
)

// compression sets the stanza. What is wrong in it leaves the default.
func (c *policyCompiler) compression(from *v1alpha1.Compression) {
	config := &compress.Config{
		Level:   string(from.Level),
		MinSize: number(c, "spec."+compression+".minSize", from.MinSize, defaultMinSize, 0, mostMinSize),
	}
	for i, name := range from.Algorithms {
		if !slices.Contains(defaultAlgorithms, name) {
			c.invalid(fmt.Sprintf("spec.%s.algorithms[%d]", compression, i), fmt.Sprintf("%q is not an algorithm", name), "zstd, br or gzip")
		} else if !slices.Contains(config.Algorithms, string(name)) {
			config.Algorithms = append(config.Algorithms, string(name))
		}
	}
	if len(config.Algorithms) == 0 {
		config.Algorithms = mapAll(defaultAlgorithms, func(a v1alpha1.CompressionAlgorithm) string { return string(a) })
	}
	switch from.Level {
	case v1alpha1.CompressionFast, v1alpha1.CompressionBalanced, v1alpha1.CompressionBest:
	default:
		if from.Level != "" {
			c.invalid("spec."+compression+".level", fmt.Sprintf("%q is not a level", from.Level), "Fast, Balanced or Best")
		}
		config.Level = string(v1alpha1.CompressionBalanced)
	}
	for i, media := range from.ContentTypes {
		if err := compress.CheckType(string(media)); err != nil {
			c.invalid(fmt.Sprintf("spec.%s.contentTypes[%d]", compression, i), err.Error(), "a media type such as text/html, text/* or application/*+json")
		} else if !slices.Contains(config.ContentTypes, string(media)) {
			config.ContentTypes = append(config.ContentTypes, string(media))
		}
	}
	if len(config.ContentTypes) == 0 {
		config.ContentTypes = defaultTypes
	}
	if from.Disabled {
		config = nil
	}
	c.sets(compression, config)
}

// compressionOf makes the filter that compresses at a place; none where the
// stanza that holds says so.
func compressionOf(e effective) []policy.Config {
	if config, _ := e.value(compression).(*compress.Config); config != nil {
		return []policy.Config{config}
	}
	return nil
}
