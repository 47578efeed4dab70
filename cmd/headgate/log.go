package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logOptions say how much is logged, and how.
type logOptions struct{ level, format string }

var logLevels = map[string]zapcore.Level{
	"error": zapcore.ErrorLevel,
	"info":  zapcore.InfoLevel,
	"debug": zapcore.DebugLevel, // logr's V(1)
}

func (o logOptions) validate() error {
	if _, ok := logLevels[o.level]; !ok {
		return fmt.Errorf("--log-level %q: want error, info or debug", o.level)
	}
	if !slices.Contains([]string{"text", "json"}, o.format) {
		return fmt.Errorf("--log-format %q: want text or json", o.format)
	}
	return nil
}

func (o logOptions) logger(w io.Writer) (logr.Logger, error) {
	if err := o.validate(); err != nil {
		return logr.Discard(), usageError{err}
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.ISO8601TimeEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if o.format == "text" {
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		config.ConsoleSeparator = " "
		encoder = zapcore.NewConsoleEncoder(config)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), logLevels[o.level])
	return zapr.NewLogger(zap.New(core)), nil
}
