// The schemas of certificates, made of the service's own by `python -m tests.vectors.make`.

export const FEATURES_2 = {
  "$defs": {
    "AngularRadiusAt": {
      "additionalProperties": false,
      "properties": {
        "cosine": {
          "exclusiveMaximum": 1.0,
          "minimum": 0.0,
          "type": "number"
        },
        "radius": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "upload": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        }
      },
      "required": [
        "cosine",
        "radius"
      ],
      "type": "object"
    },
    "AnswerRecord": {
      "additionalProperties": false,
      "properties": {
        "sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "certified": {
          "const": false,
          "default": false,
          "type": "boolean"
        }
      },
      "required": [
        "sha256"
      ],
      "type": "object"
    },
    "BoundAt": {
      "additionalProperties": false,
      "properties": {
        "eps": {
          "minimum": 0.0,
          "type": "number"
        },
        "fcsb": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "mean": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "layer_cake": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        }
      },
      "required": [
        "eps",
        "fcsb",
        "mean",
        "layer_cake"
      ],
      "type": "object"
    },
    "CertifiedImage": {
      "additionalProperties": false,
      "properties": {
        "sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "animated": {
          "default": false,
          "type": "boolean"
        },
        "width": {
          "minimum": 1,
          "type": "integer"
        },
        "height": {
          "minimum": 1,
          "type": "integer"
        },
        "canvas_width": {
          "minimum": 1,
          "type": "integer"
        },
        "canvas_height": {
          "minimum": 1,
          "type": "integer"
        },
        "resize_norm": {
          "anyOf": [
            {
              "exclusiveMinimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "upload_space": {
          "anyOf": [
            {
              "enum": [
                "decoded RGB",
                "decoded grey"
              ],
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "upload_reason": {
          "anyOf": [
            {
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "sha256",
        "width",
        "height",
        "canvas_width",
        "canvas_height",
        "resize_norm",
        "upload_space",
        "upload_reason"
      ],
      "type": "object"
    },
    "CertifiedModel": {
      "additionalProperties": false,
      "properties": {
        "name": {
          "type": "string"
        },
        "digest": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "psm_digest": {
          "anyOf": [
            {
              "pattern": "^[0-9a-f]{64}$",
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "dtype": {
          "type": "string"
        },
        "max_canvas_pixels": {
          "anyOf": [
            {
              "minimum": 1,
              "type": "integer"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        },
        "language_model_digest": {
          "anyOf": [
            {
              "pattern": "^[0-9a-f]{64}$",
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "name",
        "digest",
        "psm_digest",
        "dtype",
        "language_model_digest"
      ],
      "type": "object"
    },
    "Chance": {
      "additionalProperties": false,
      "properties": {
        "mean": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "p95": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "pairs": {
          "minimum": 1,
          "type": "integer"
        }
      },
      "required": [
        "mean",
        "p95",
        "pairs"
      ],
      "type": "object"
    },
    "Commitment": {
      "additionalProperties": false,
      "properties": {
        "log": {
          "type": "string"
        },
        "number": {
          "minimum": 0,
          "type": "integer"
        },
        "nonce": {
          "pattern": "^[0-9a-f]{32}$",
          "type": "string"
        },
        "secret_digest": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        }
      },
      "required": [
        "log",
        "number",
        "nonce",
        "secret_digest"
      ],
      "type": "object"
    },
    "NoiseRecord": {
      "additionalProperties": false,
      "properties": {
        "distribution": {
          "const": "gaussian",
          "default": "gaussian",
          "type": "string"
        },
        "sigma": {
          "exclusiveMinimum": 0.0,
          "maximum": 1000000.0,
          "type": "number"
        },
        "generator": {
          "type": "string"
        },
        "seed": {
          "pattern": "^[0-9a-f]{1,32}$",
          "type": "string"
        },
        "streams": {
          "const": 2,
          "default": 2,
          "type": "integer"
        },
        "n_select": {
          "minimum": 1,
          "type": "integer"
        },
        "n_certify": {
          "minimum": 1,
          "type": "integer"
        },
        "budget": {
          "minimum": 1,
          "type": "integer"
        },
        "degraded_from": {
          "anyOf": [
            {
              "minimum": 1,
              "type": "integer"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        }
      },
      "required": [
        "sigma",
        "generator",
        "seed",
        "n_select",
        "n_certify",
        "budget"
      ],
      "type": "object"
    },
    "Question": {
      "additionalProperties": false,
      "properties": {
        "messages_sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "decoding_sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        }
      },
      "required": [
        "messages_sha256",
        "decoding_sha256"
      ],
      "type": "object"
    },
    "Radius": {
      "additionalProperties": false,
      "properties": {
        "cosine_threshold": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "value": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "mean": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "layer_cake": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "angular": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        },
        "upload": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "cosine_threshold",
        "value",
        "mean",
        "layer_cake",
        "upload"
      ],
      "type": "object"
    },
    "TargetBound": {
      "additionalProperties": false,
      "properties": {
        "cosine": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "eps": {
          "minimum": 0.0,
          "type": "number"
        },
        "fcsb": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "angular": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        }
      },
      "required": [
        "cosine",
        "eps",
        "fcsb"
      ],
      "type": "object"
    }
  },
  "additionalProperties": false,
  "properties": {
    "version": {
      "const": 2,
      "default": 2,
      "type": "integer"
    },
    "paper": {
      "const": "arXiv:2601.16200v1",
      "default": "arXiv:2601.16200v1",
      "type": "string"
    },
    "time": {
      "format": "date-time",
      "type": "string"
    },
    "request_id": {
      "anyOf": [
        {
          "type": "string"
        },
        {
          "type": "null"
        }
      ],
      "default": null
    },
    "question": {
      "anyOf": [
        {
          "$ref": "#/$defs/Question"
        },
        {
          "type": "null"
        }
      ],
      "default": null
    },
    "answer": {
      "anyOf": [
        {
          "$ref": "#/$defs/AnswerRecord"
        },
        {
          "type": "null"
        }
      ],
      "default": null
    },
    "served_tokens_sha256": {
      "pattern": "^[0-9a-f]{64}$",
      "type": "string"
    },
    "image": {
      "$ref": "#/$defs/CertifiedImage"
    },
    "model": {
      "$ref": "#/$defs/CertifiedModel"
    },
    "noise": {
      "$ref": "#/$defs/NoiseRecord"
    },
    "norm": {
      "const": "l2",
      "default": "l2",
      "type": "string"
    },
    "space": {
      "default": "encoder_input",
      "enum": [
        "encoder_input",
        "stacked_tiles"
      ],
      "type": "string"
    },
    "alpha": {
      "exclusiveMaximum": 1.0,
      "exclusiveMinimum": 0.0,
      "type": "number"
    },
    "stop_reason": {
      "enum": [
        "certified",
        "unreachable",
        "budget",
        "deadline"
      ],
      "type": "string"
    },
    "score_estimate": {
      "maximum": 1.0,
      "minimum": 0.0,
      "type": "number"
    },
    "score_lower": {
      "maximum": 1.0,
      "minimum": 0.0,
      "type": "number"
    },
    "bounds": {
      "items": {
        "$ref": "#/$defs/BoundAt"
      },
      "maxItems": 1024,
      "minItems": 1,
      "type": "array"
    },
    "curve": {
      "items": {
        "$ref": "#/$defs/BoundAt"
      },
      "maxItems": 25,
      "minItems": 1,
      "type": "array"
    },
    "radius": {
      "$ref": "#/$defs/Radius"
    },
    "angular": {
      "default": [],
      "items": {
        "$ref": "#/$defs/AngularRadiusAt"
      },
      "type": "array"
    },
    "served": {
      "enum": [
        "mean",
        "layer_cake",
        "angular"
      ],
      "type": "string"
    },
    "target": {
      "anyOf": [
        {
          "$ref": "#/$defs/TargetBound"
        },
        {
          "type": "null"
        }
      ]
    },
    "outcome": {
      "enum": [
        "certified",
        "bounded",
        "abstained",
        "vacuous"
      ],
      "type": "string"
    },
    "vacuous_because": {
      "anyOf": [
        {
          "enum": [
            "not calibrated",
            "not above chance"
          ],
          "type": "string"
        },
        {
          "type": "null"
        }
      ]
    },
    "chance": {
      "anyOf": [
        {
          "$ref": "#/$defs/Chance"
        },
        {
          "type": "null"
        }
      ]
    },
    "cached": {
      "default": false,
      "type": "boolean"
    },
    "commitment": {
      "anyOf": [
        {
          "$ref": "#/$defs/Commitment"
        },
        {
          "type": "null"
        }
      ],
      "default": null
    },
    "assumptions": {
      "default": [
        "The bound holds with probability at least 1 - alpha over the certification noise, which was drawn independently of the image and of the selection samples.",
        "It compares the ideal smoothed encoder g at any image x' within eps with the served direction t at the image sent; a service asked about x' would itself estimate g(x') from finitely many samples.",
        "Distances are l2 norms over the pixels of the encoder's input, in [0, 1]; the radius in upload space counts the decoded 8-bit samples of the uploaded image, divided by 255, not what the file stores.",
        "The encoder is taken as a fixed function of its input; that floating-point arithmetic in the stated dtype is only close to one is not accounted for.",
        "Gaussian noise is drawn in floating point by a pseudo-random generator from the recorded seed.",
        "It holds for every real-valued x', hence also for those on the 8-bit grid of image files.",
        "It speaks of the features that the language model received; the answer is named, not certified."
      ],
      "items": {
        "type": "string"
      },
      "type": "array"
    }
  },
  "required": [
    "time",
    "served_tokens_sha256",
    "image",
    "model",
    "noise",
    "alpha",
    "stop_reason",
    "score_estimate",
    "score_lower",
    "bounds",
    "curve",
    "radius",
    "served",
    "target",
    "outcome",
    "vacuous_because",
    "chance"
  ],
  "type": "object"
};

export const FEATURES_1 = {
  "$defs": {
    "BoundAt": {
      "additionalProperties": false,
      "properties": {
        "eps": {
          "minimum": 0.0,
          "type": "number"
        },
        "fcsb": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "mean": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "layer_cake": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        }
      },
      "required": [
        "eps",
        "fcsb",
        "mean",
        "layer_cake"
      ],
      "type": "object"
    },
    "CertifiedImage": {
      "additionalProperties": false,
      "properties": {
        "sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "animated": {
          "default": false,
          "type": "boolean"
        },
        "width": {
          "minimum": 1,
          "type": "integer"
        },
        "height": {
          "minimum": 1,
          "type": "integer"
        },
        "canvas_width": {
          "minimum": 1,
          "type": "integer"
        },
        "canvas_height": {
          "minimum": 1,
          "type": "integer"
        },
        "resize_norm": {
          "anyOf": [
            {
              "exclusiveMinimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "sha256",
        "width",
        "height",
        "canvas_width",
        "canvas_height",
        "resize_norm"
      ],
      "type": "object"
    },
    "CertifiedModel": {
      "additionalProperties": false,
      "properties": {
        "name": {
          "type": "string"
        },
        "digest": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "psm_digest": {
          "anyOf": [
            {
              "pattern": "^[0-9a-f]{64}$",
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "dtype": {
          "type": "string"
        },
        "max_canvas_pixels": {
          "anyOf": [
            {
              "minimum": 1,
              "type": "integer"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        }
      },
      "required": [
        "name",
        "digest",
        "psm_digest",
        "dtype"
      ],
      "type": "object"
    },
    "Chance": {
      "additionalProperties": false,
      "properties": {
        "mean": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "p95": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        }
      },
      "required": [
        "mean",
        "p95"
      ],
      "type": "object"
    },
    "NoiseRecord": {
      "additionalProperties": false,
      "properties": {
        "distribution": {
          "const": "gaussian",
          "default": "gaussian",
          "type": "string"
        },
        "sigma": {
          "exclusiveMinimum": 0.0,
          "maximum": 1000000.0,
          "type": "number"
        },
        "generator": {
          "type": "string"
        },
        "seed": {
          "pattern": "^[0-9a-f]{1,32}$",
          "type": "string"
        },
        "n_select": {
          "minimum": 1,
          "type": "integer"
        },
        "n_certify": {
          "minimum": 1,
          "type": "integer"
        },
        "budget": {
          "minimum": 1,
          "type": "integer"
        },
        "degraded_from": {
          "anyOf": [
            {
              "minimum": 1,
              "type": "integer"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        }
      },
      "required": [
        "sigma",
        "generator",
        "seed",
        "n_select",
        "n_certify",
        "budget"
      ],
      "type": "object"
    },
    "Radius": {
      "additionalProperties": false,
      "properties": {
        "cosine_threshold": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "value": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "mean": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "layer_cake": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "upload": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "cosine_threshold",
        "value",
        "mean",
        "layer_cake",
        "upload"
      ],
      "type": "object"
    },
    "TargetBound": {
      "additionalProperties": false,
      "properties": {
        "cosine": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        "eps": {
          "minimum": 0.0,
          "type": "number"
        },
        "fcsb": {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        }
      },
      "required": [
        "cosine",
        "eps",
        "fcsb"
      ],
      "type": "object"
    }
  },
  "additionalProperties": false,
  "properties": {
    "version": {
      "const": 1,
      "default": 1,
      "type": "integer"
    },
    "paper": {
      "const": "arXiv:2601.16200v1",
      "default": "arXiv:2601.16200v1",
      "type": "string"
    },
    "time": {
      "format": "date-time",
      "type": "string"
    },
    "image": {
      "$ref": "#/$defs/CertifiedImage"
    },
    "model": {
      "$ref": "#/$defs/CertifiedModel"
    },
    "noise": {
      "$ref": "#/$defs/NoiseRecord"
    },
    "norm": {
      "const": "l2",
      "default": "l2",
      "type": "string"
    },
    "space": {
      "default": "encoder_input",
      "enum": [
        "encoder_input",
        "stacked_tiles"
      ],
      "type": "string"
    },
    "alpha": {
      "exclusiveMaximum": 1.0,
      "exclusiveMinimum": 0.0,
      "type": "number"
    },
    "stop_reason": {
      "enum": [
        "certified",
        "unreachable",
        "budget",
        "deadline"
      ],
      "type": "string"
    },
    "score_estimate": {
      "maximum": 1.0,
      "minimum": 0.0,
      "type": "number"
    },
    "score_lower": {
      "maximum": 1.0,
      "minimum": 0.0,
      "type": "number"
    },
    "bounds": {
      "items": {
        "$ref": "#/$defs/BoundAt"
      },
      "maxItems": 1024,
      "minItems": 1,
      "type": "array"
    },
    "curve": {
      "items": {
        "$ref": "#/$defs/BoundAt"
      },
      "maxItems": 25,
      "minItems": 1,
      "type": "array"
    },
    "radius": {
      "$ref": "#/$defs/Radius"
    },
    "served": {
      "enum": [
        "mean",
        "layer_cake"
      ],
      "type": "string"
    },
    "target": {
      "anyOf": [
        {
          "$ref": "#/$defs/TargetBound"
        },
        {
          "type": "null"
        }
      ]
    },
    "outcome": {
      "enum": [
        "certified",
        "abstained",
        "vacuous"
      ],
      "type": "string"
    },
    "chance": {
      "$ref": "#/$defs/Chance"
    },
    "flip_point": {
      "anyOf": [
        {
          "maximum": 1.0,
          "minimum": -1.0,
          "type": "number"
        },
        {
          "type": "null"
        }
      ]
    },
    "cached": {
      "default": false,
      "type": "boolean"
    },
    "assumptions": {
      "default": [
        "The bound holds with probability at least 1 - alpha over the certification noise, which was drawn independently of the image and of the selection samples.",
        "It compares the ideal smoothed encoder g at any image x' within eps with the served direction t at the image sent; a service asked about x' would itself estimate g(x') from finitely many samples.",
        "Distances are l2 norms over the pixels of the encoder's input, in [0, 1]; the radius in upload space counts the pixels of the uploaded image, also in [0, 1].",
        "The encoder is taken as a fixed function of its input; that floating-point arithmetic in the stated dtype is only close to one is not accounted for.",
        "Gaussian noise is drawn in floating point by a pseudo-random generator from a fresh seed.",
        "It holds for every real-valued x', hence also for those on the 8-bit grid of image files.",
        "It speaks of the features that the language model received, not of the answer that the model gave."
      ],
      "items": {
        "type": "string"
      },
      "type": "array"
    }
  },
  "required": [
    "time",
    "image",
    "model",
    "noise",
    "alpha",
    "stop_reason",
    "score_estimate",
    "score_lower",
    "bounds",
    "curve",
    "radius",
    "served",
    "target",
    "outcome",
    "chance",
    "flip_point"
  ],
  "type": "object"
};

export const ANSWER = {
  "$defs": {
    "CertifiedImage": {
      "additionalProperties": false,
      "properties": {
        "sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "animated": {
          "default": false,
          "type": "boolean"
        },
        "width": {
          "minimum": 1,
          "type": "integer"
        },
        "height": {
          "minimum": 1,
          "type": "integer"
        },
        "canvas_width": {
          "minimum": 1,
          "type": "integer"
        },
        "canvas_height": {
          "minimum": 1,
          "type": "integer"
        },
        "resize_norm": {
          "anyOf": [
            {
              "exclusiveMinimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "upload_space": {
          "anyOf": [
            {
              "enum": [
                "decoded RGB",
                "decoded grey"
              ],
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "upload_reason": {
          "anyOf": [
            {
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "sha256",
        "width",
        "height",
        "canvas_width",
        "canvas_height",
        "resize_norm",
        "upload_space",
        "upload_reason"
      ],
      "type": "object"
    },
    "CertifiedModel": {
      "additionalProperties": false,
      "properties": {
        "name": {
          "type": "string"
        },
        "digest": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "psm_digest": {
          "anyOf": [
            {
              "pattern": "^[0-9a-f]{64}$",
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "dtype": {
          "type": "string"
        },
        "max_canvas_pixels": {
          "anyOf": [
            {
              "minimum": 1,
              "type": "integer"
            },
            {
              "type": "null"
            }
          ],
          "default": null
        },
        "language_model_digest": {
          "anyOf": [
            {
              "pattern": "^[0-9a-f]{64}$",
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "name",
        "digest",
        "psm_digest",
        "dtype",
        "language_model_digest"
      ],
      "type": "object"
    },
    "Commitment": {
      "additionalProperties": false,
      "properties": {
        "log": {
          "type": "string"
        },
        "number": {
          "minimum": 0,
          "type": "integer"
        },
        "nonce": {
          "pattern": "^[0-9a-f]{32}$",
          "type": "string"
        },
        "secret_digest": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        }
      },
      "required": [
        "log",
        "number",
        "nonce",
        "secret_digest"
      ],
      "type": "object"
    },
    "Question": {
      "additionalProperties": false,
      "properties": {
        "messages_sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        },
        "decoding_sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        }
      },
      "required": [
        "messages_sha256",
        "decoding_sha256"
      ],
      "type": "object"
    },
    "VoteNoise": {
      "additionalProperties": false,
      "properties": {
        "distribution": {
          "const": "gaussian",
          "default": "gaussian",
          "type": "string"
        },
        "sigma": {
          "exclusiveMinimum": 0.0,
          "type": "number"
        },
        "generator": {
          "type": "string"
        },
        "streams": {
          "const": 2,
          "default": 2,
          "type": "integer"
        },
        "budget": {
          "minimum": 1,
          "type": "integer"
        }
      },
      "required": [
        "sigma",
        "generator",
        "budget"
      ],
      "type": "object"
    },
    "VotedAnswer": {
      "additionalProperties": false,
      "properties": {
        "form": {
          "enum": [
            "choices",
            "field",
            "text"
          ],
          "type": "string"
        },
        "pointer": {
          "anyOf": [
            {
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "canonical": {
          "anyOf": [
            {
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "canonical_sha256": {
          "anyOf": [
            {
              "pattern": "^[0-9a-f]{64}$",
              "type": "string"
            },
            {
              "type": "null"
            }
          ]
        },
        "text_sha256": {
          "pattern": "^[0-9a-f]{64}$",
          "type": "string"
        }
      },
      "required": [
        "form",
        "pointer",
        "canonical",
        "canonical_sha256",
        "text_sha256"
      ],
      "type": "object"
    },
    "VotedImage": {
      "additionalProperties": false,
      "properties": {
        "image": {
          "$ref": "#/$defs/CertifiedImage"
        },
        "seed": {
          "pattern": "^[0-9a-f]+$",
          "type": "string"
        },
        "upload_radius": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        },
        "levels": {
          "anyOf": [
            {
              "minimum": 0.0,
              "type": "number"
            },
            {
              "type": "null"
            }
          ]
        }
      },
      "required": [
        "image",
        "seed",
        "upload_radius",
        "levels"
      ],
      "type": "object"
    },
    "Votes": {
      "additionalProperties": false,
      "properties": {
        "hits": {
          "minimum": 0,
          "type": "integer"
        },
        "runner_up": {
          "minimum": 0,
          "type": "integer"
        },
        "rest": {
          "minimum": 0,
          "type": "integer"
        }
      },
      "required": [
        "hits",
        "runner_up",
        "rest"
      ],
      "type": "object"
    }
  },
  "additionalProperties": false,
  "properties": {
    "version": {
      "const": 2,
      "default": 2,
      "type": "integer"
    },
    "kind": {
      "const": "answer",
      "default": "answer",
      "type": "string"
    },
    "time": {
      "format": "date-time",
      "type": "string"
    },
    "request_id": {
      "type": "string"
    },
    "images": {
      "items": {
        "$ref": "#/$defs/VotedImage"
      },
      "minItems": 1,
      "type": "array"
    },
    "model": {
      "$ref": "#/$defs/CertifiedModel"
    },
    "question": {
      "$ref": "#/$defs/Question"
    },
    "answer": {
      "$ref": "#/$defs/VotedAnswer"
    },
    "noise": {
      "$ref": "#/$defs/VoteNoise"
    },
    "alpha": {
      "exclusiveMaximum": 1.0,
      "exclusiveMinimum": 0.0,
      "type": "number"
    },
    "selection": {
      "$ref": "#/$defs/Votes"
    },
    "votes": {
      "$ref": "#/$defs/Votes"
    },
    "stop_reason": {
      "enum": [
        "certified",
        "unreachable",
        "budget",
        "deadline"
      ],
      "type": "string"
    },
    "p_low": {
      "exclusiveMaximum": 1.0,
      "minimum": 0.0,
      "type": "number"
    },
    "p_up": {
      "exclusiveMinimum": 0.0,
      "maximum": 1.0,
      "type": "number"
    },
    "radius": {
      "anyOf": [
        {
          "minimum": 0.0,
          "type": "number"
        },
        {
          "type": "null"
        }
      ]
    },
    "target": {
      "anyOf": [
        {
          "minimum": 0.0,
          "type": "number"
        },
        {
          "type": "null"
        }
      ]
    },
    "outcome": {
      "enum": [
        "certified",
        "abstained"
      ],
      "type": "string"
    },
    "commitment": {
      "anyOf": [
        {
          "$ref": "#/$defs/Commitment"
        },
        {
          "type": "null"
        }
      ],
      "default": null
    },
    "assumptions": {
      "default": [
        "The statement holds with probability at least 1 - alpha over the certification noise, which was drawn independently of the images and of the selection samples.",
        "It is about the most probable answer to noisy copies of the images, asked as the question says. A service that is asked about changed images within the radius in the same way gives this answer or abstains, but for its own alpha.",
        "Two answers are the same if their canonical forms are equal. What the canonical form leaves out is not covered.",
        "Messages, decoding, encoder and language model are fixed. Answers to different noisy copies are taken to be independent of each other.",
        "The radius is an l2 norm over the pixels of all encoder inputs of the request together, in [0, 1].",
        "That floating-point arithmetic is only close to a fixed function is not accounted for.",
        "Gaussian noise is drawn in floating point by a pseudo-random generator."
      ],
      "items": {
        "type": "string"
      },
      "type": "array"
    }
  },
  "required": [
    "time",
    "request_id",
    "images",
    "model",
    "question",
    "answer",
    "noise",
    "alpha",
    "selection",
    "votes",
    "stop_reason",
    "p_low",
    "p_up",
    "radius",
    "target",
    "outcome"
  ],
  "type": "object"
};
