"""What all models of the YAML vocabulary share: strict, frozen, and with a schema that anchors errors to the field."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema


class FieldSchema(GenerateJsonSchema):
    """JSON schema without `anyOf [object, null]`.

    A validator reports a mistake inside an `anyOf` at the whole block ("not valid under any of the
    given schemas"); naming the object's schema alone lets it point at the field itself.
    """

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if "$ref" in inner:
            return inner
        return super().nullable_schema(schema)


class SpecModel(BaseModel):
    """A block of the YAML: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        kwargs["schema_generator"] = FieldSchema
        return super().model_json_schema(*args, **kwargs)
