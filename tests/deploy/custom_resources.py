"""What of ScaledObject and ServiceMonitor is used here, as JSON schemas: written by hand from their projects' documentation.

Kubernetes' own schemas do not know them. Fields that we do not use are left out, so that a misspelt one is refused.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def exactly(required: dict[str, Schema], **optional: Schema) -> Schema:
    properties = required | optional
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


METADATA = exactly({"name": TEXT, "namespace": TEXT}, labels=LABELS)

# https://keda.sh/docs/latest/reference/scaledobject-spec and .../scalers/prometheus: a trigger's metadata are strings, numbers too.
POLICY = exactly({"type": {"enum": ["Pods", "Percent"]}, "value": COUNT, "periodSeconds": {"maximum": 1800} | COUNT})
DIRECTION = exactly({}, stabilizationWindowSeconds={"maximum": 3600} | COUNT, policies={"type": "array", "items": POLICY})
BEHAVIOR = exactly({}, scaleUp=DIRECTION, scaleDown=DIRECTION)
FALLBACKS = ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
TRIGGER = exactly(
    {
        "type": {"const": "prometheus"},
        "metadata": exactly(
            {"serverAddress": TEXT, "query": TEXT, "threshold": {"type": "string", "pattern": r"^\d+(\.\d+)?$"}},
            ignoreNullValues={"enum": ["true", "false"]},
        ),
    }
)
SCALED_OBJECT = exactly(
    {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "metadata": METADATA,
        "spec": exactly(
            {"scaleTargetRef": exactly({"name": TEXT}), "triggers": {"type": "array", "minItems": 1, "items": TRIGGER}},
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            fallback=exactly({"failureThreshold": COUNT, "replicas": COUNT}, behavior={"enum": FALLBACKS}),
            advanced=exactly({}, horizontalPodAutoscalerConfig=exactly({}, behavior=BEHAVIOR)),
        ),
    }
)

# https://prometheus-operator.dev/docs/api-reference/api: a port by its name; a duration; a key of a Secret of its namespace.
ENDPOINT = exactly(
    {"port": TEXT},
    path={"type": "string", "pattern": "^/"},
    interval={"type": "string", "pattern": r"^\d+(ms|s|m|h)$"},
    authorization=exactly({"credentials": exactly({"name": TEXT, "key": TEXT})}, type=TEXT),
)
SERVICE_MONITOR = exactly(
    {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": METADATA,
        "spec": exactly(
            {
                "selector": exactly({"matchLabels": LABELS}),
                "endpoints": {"type": "array", "minItems": 1, "items": ENDPOINT},
            },
            jobLabel=TEXT,
        ),
    }
)
SCHEMAS = {"ScaledObject": SCALED_OBJECT, "ServiceMonitor": SERVICE_MONITOR}
