è
¬}
.
Identity

input"T
output"T"	
Ttype

NoOp
C
Placeholder
output"dtype"
dtypetype"
shapeshape:"serve*2.21.02v2.21.0-rc1-5-ga481b10260d8Š
_
textPlaceholder*#
_output_shapes
:ÿÿÿÿÿÿÿÿÿ*
dtype0*
shape:ÿÿÿÿÿÿÿÿÿ
H
IdentityIdentitytext*
T0*#
_output_shapes
:ÿÿÿÿÿÿÿÿÿ
J

Identity_1Identitytext*
T0*#
_output_shapes
:ÿÿÿÿÿÿÿÿÿ

initNoOp"ª*©
serving_default•
!
text
text:0ÿÿÿÿÿÿÿÿÿ-

text_bytes
Identity_1:0ÿÿÿÿÿÿÿÿÿ%
text

Identity:0ÿÿÿÿÿÿÿÿÿtensorflow/serving/predict