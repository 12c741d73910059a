/*
 * Every entry of IVRS that iasl 20200925 knows, in an IOMMU of types 10h and 11h, and the three memory blocks.
 */
[0004]                          Signature : "IVRS"    [I/O Virtualization Reporting Structure]
[0004]                       Table Length : 00000000
[0001]                           Revision : 02
[0001]                           Checksum : 00
[0006]                             Oem ID : "PORTCL"
[0008]                       Oem Table ID : "BYHAND  "
[0004]                       Oem Revision : 00000001
[0004]                    Asl Compiler ID : "INTL"
[0004]              Asl Compiler Revision : 20200925

[0004]                Virtualization Info : 00203043
[0008]                           Reserved : 0000000000000000

[0001]                      Subtable Type : 10 [Hardware Definition Block]
[0001]                              Flags : B0
[0002]                             Length : 0020
[0002]                           DeviceId : 0002
[0002]                  Capability Offset : 0040
[0008]                       Base Address : 00000000FEB80000
[0002]                  PCI Segment Group : 0000
[0002]                Virtualization Info : 0100
[0004]                  Feature Reporting : 80048F6E

[0001]                         Entry Type : 01
[0002]                          Device ID : 0000
[0001]                       Data Setting : 00

[0001]                         Entry Type : 02
[0002]                          Device ID : 0010
[0001]                       Data Setting : D7

[0001]                      Subtable Type : 11 [Hardware Definition Block]
[0001]                              Flags : 30
[0002]                             Length : 0064
[0002]                           DeviceId : 0002
[0002]                  Capability Offset : 0040
[0008]                       Base Address : 00000000FEB80000
[0002]                  PCI Segment Group : 0000
[0002]                Virtualization Info : 0100
[0004]                         Attributes : 00040200
[0008]                          EFR Image : 246577EFA2254AFA
[0008]                           Reserved : 0000000000000000

[0001]                         Entry Type : 03
[0002]                          Device ID : 0008
[0001]                       Data Setting : 01
[0001]                         Entry Type : 04
[0002]                          Device ID : FFFE
[0001]                       Data Setting : 00

[0001]                         Entry Type : 42
[0002]                          Device ID : 0100
[0001]                       Data Setting : 02
[0001]                           Reserved : 00
[0002]              Source Used Device ID : 00A4
[0001]                           Reserved : 00

[0001]                         Entry Type : 43
[0002]                          Device ID : FF00
[0001]                       Data Setting : 40
[0001]                           Reserved : 00
[0002]              Source Used Device ID : 00A5
[0001]                           Reserved : 00
[0001]                         Entry Type : 04
[0002]                          Device ID : FFFF
[0001]                       Data Setting : 00

[0001]                         Entry Type : 46
[0002]                          Device ID : 0200
[0001]                       Data Setting : 80
[0004]                      Extended Data : 80000000

[0001]                         Entry Type : 48
[0002]                          Device ID : 0000
[0001]                       Data Setting : D7
[0001]                             Handle : 21
[0002]              Source Used Device ID : 00A0
[0001]                            Variety : 01

[0001]                         Entry Type : 48
[0002]                          Device ID : 0000
[0001]                       Data Setting : 00
[0001]                             Handle : 00
[0002]              Source Used Device ID : 00A0
[0001]                            Variety : 02

[0001]                         Entry Type : 00
[0002]                          Device ID : 0000
[0001]                       Data Setting : 00

[0001]                      Subtable Type : 20 [Memory Definition Block]
[0001]                              Flags : 08
[0002]                             Length : 0020
[0002]                           DeviceId : 0000
[0002]                     Auxiliary Data : 0000
[0008]                           Reserved : 0000000000000000
[0008]                      Start Address : 0000000010000000
[0008]                      Memory Length : 0000000000001000

[0001]                      Subtable Type : 21 [Memory Definition Block]
[0001]                              Flags : 07
[0002]                             Length : 0020
[0002]                           DeviceId : 0300
[0002]                     Auxiliary Data : 0000
[0008]                           Reserved : 0000000000000000
[0008]                      Start Address : 0000000020000000
[0008]                      Memory Length : 0000000000002000

[0001]                      Subtable Type : 22 [Memory Definition Block]
[0001]                              Flags : 03
[0002]                             Length : 0020
[0002]                           DeviceId : 0400
[0002]                     Auxiliary Data : 04FF
[0008]                           Reserved : 0000000000000000
[0008]                      Start Address : 0000000030000000
[0008]                      Memory Length : 0000000000003000
